"""Checkpoints: state and data position as one atomic Orbax item."""

import contextlib
import dataclasses
import gc
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
import orbax.checkpoint.checkpoint_managers as policies
from etils import epath

from lrt_jax.algorithms.state import TrainState
from lrt_jax.data.input.pipeline import TrainLoader
from lrt_jax.rl.learner import join_frozen, split_frozen
from lrt_jax.storage.bucket import BucketError, explain_refusals, is_address
from lrt_jax.storage.digests import json_digest
from lrt_jax.storage.disk import REFUSALS, check_space, explain, read_plainly
from lrt_jax.storage.workdir import CHECKPOINTS, check_path
from lrt_jax.training.checksums import by_path, checksums

MANIFEST = "manifest"  # the item of a checkpoint that says what the others hold, see `_manifest`
NONE_YET = "there is no whole checkpoint yet"


class Checkpointer(contextlib.AbstractContextManager):
    """Saves and restores a run. A context manager: leaving it waits for what is being written.

    Args:
      workdir: of the run, on this machine or in a bucket (`gs://`).
      keep: how many of the last checkpoints stay; 0 only reads them.
      best: step of the best evaluation so far, whose checkpoint stays too; None before the first.
      run: digests of what makes the run, by name (`run_digests`); checkpoints that were saved with
        others are not restored.

    Raises:
      ValueError: checkpoints cannot be kept under that path.
    """

    def __init__(
        self,
        workdir: epath.PathLike,
        keep: int,
        best: Callable[[], int | None] = lambda: None,
        run: Mapping[str, str] = MappingProxyType({}),
    ):
        self._run = dict(run)
        check_path(workdir)
        folder = epath.Path(workdir) / CHECKPOINTS
        self._is_here = not is_address(folder)
        self.folder = folder.absolute() if self._is_here else folder
        self._manager = ocp.CheckpointManager(
            self.folder,
            options=ocp.CheckpointManagerOptions(
                read_only=not keep,
                create=bool(keep),
                save_interval_steps=int(bool(keep)),
                cleanup_tmp_directories=bool(keep),  # of processes that were killed
                preservation_policy=policies.AnyPreservationPolicy(
                    [policies.LatestN(keep), _KeepBest(best)]
                ),
                enable_async_checkpointing=True,
            ),
        )
        self._done = 0

    def __exit__(self, kind, error: BaseException | None, trace) -> None:
        try:
            with self._written_plainly():
                self._manager.close()
        except (OSError, BucketError) as also:
            if error is None:
                if isinstance(also, OSError):
                    also.add_note(self._what_is_left())
                raise
            if not isinstance(error, BucketError):  # which has said the same
                error.add_note(str(also))  # what ended the run comes first
        if isinstance(error, OSError) and error.errno in REFUSALS:
            error.add_note(self._what_is_left())
            gc.collect()  # Orbax's unfinished coroutines, left to the end, die noisily

    @property
    def latest_step(self) -> int | None:
        """Step of the last whole checkpoint, or None."""
        return self._manager.latest_step()

    @property
    def has_unsaved_steps(self) -> bool:
        """Whether there are steps that no whole checkpoint holds."""
        return self._done > max(self._whole_steps(), default=0)

    def step_done(self, step: int) -> None:
        """Takes note of a step that would be lost."""
        self._done = step

    def wait(self) -> None:
        """Waits for what is being written.

        Raises:
          OSError: it could not be.
          BucketError: likewise, in a bucket.
        """
        with self._written_plainly():
            self._manager.wait_until_finished()

    def save(self, step: int, state: TrainState, data: TrainLoader) -> None:
        """Starts saving; the position of the data is that of the last batch that was consumed.

        Raises:
          FloatingPointError: not all of its numbers are finite.
          OSError: there is no room for it, or what was still being written could not be.
          BucketError: likewise, in a bucket.
        """
        self.wait()  # what was being written takes up room too
        data_state = data.get_state()
        manifest = _manifest(step, self._run, state, data_state)
        if self._is_here:
            check_space(self.folder, sum(leaf.nbytes for leaf in jax.tree.leaves(state)))
        items = {
            "state": ocp.args.StandardSave(state),
            "data": ocp.args.JsonSave(data_state),
            MANIFEST: ocp.args.JsonSave(manifest),
        }
        with self._written_plainly():
            self._manager.save(step, args=ocp.args.Composite(**items))

    def find(self, step: int) -> int:
        """The step itself if it has a checkpoint; for 0 the last that has one.

        Raises:
          FileNotFoundError: there is none.
        """
        steps = sorted(self._manager.all_steps())
        if not steps or (step and step not in steps):
            has = ", ".join(map(str, steps)) or "none"
            raise FileNotFoundError(
                f"{self.folder}: no checkpoint of step {step}; there are: {has}"
            )
        return step or steps[-1]

    def restore(self, step: int, like: TrainState, data: TrainLoader | None = None) -> TrainState:
        """Reads a checkpoint onto the devices where `like` lives.

        Args:
          step: of the checkpoint.
          like: of `abstract_state`.
          data: is moved to where it stood, if given; the position is the same in every process.

        Raises:
          ValueError: it is not what was saved, or was saved by another run or at another step; or
            it cannot be read.
        """
        others = [other for other in self._whole_steps() if other < step]
        left = f"then goes on from step {others[-1]}" if others else "has no other, and begins anew"
        items = {"state": ocp.args.StandardRestore(like)}
        if data is not None:
            items["data"] = ocp.args.JsonRestore()
        restored = self._restore(step, like, items, f"remove this checkpoint: the run {left}")
        if data is not None:
            data.set_state(restored["data"])
        return restored["state"]

    def restore_params(self, step: int, like: Mapping, freeze: Sequence[str]) -> dict:
        """Reads the parameters alone: the optimizer's moments would take twice their memory.

        Args:
          step: of the checkpoint.
          like: `jax.ShapeDtypeStruct`s with shardings, nested as the parameters.
          freeze: patterns of the parameters that the run does not train.

        Raises:
          ValueError: as `restore`.
        """
        trainable, frozen = split_frozen(like, freeze)
        item = {"trainable": trainable, "frozen": frozen}
        how = ocp.checkpoint_utils.construct_restore_args(item)
        state = ocp.args.PyTreeRestore(item, restore_args=how, partial_restore=True)
        restored = self._restore(step, item, {"state": state}, "take another --step")["state"]
        return join_frozen(restored["trainable"], restored["frozen"])

    def _restore(self, step: int, like: Any, items: Mapping, remedy: str) -> Mapping:
        """Reads items of a checkpoint, and holds them against its manifest."""
        path = self.folder / str(step)

        def check(problem: str) -> None:
            if problem:
                raise ValueError(f"{path}: {problem}; {remedy}")

        with read_plainly(path, remedy), explain_refusals(path, "read"):
            if not (path / MANIFEST).exists():
                check("has no manifest: older versions wrote none, or it was lost")
            args = ocp.args.Composite(**{MANIFEST: ocp.args.JsonRestore()})
            manifest = self._manager.restore(step, args=args)[MANIFEST]
            check(_other_origin(manifest, step, self._run))
            check(_other_arrays(manifest, like))  # before they are read, which may take long
            restored = self._manager.restore(step, args=ocp.args.Composite(**items))
            check(_damage(manifest, restored))
        return restored

    @contextlib.contextmanager
    def _written_plainly(self) -> Iterator[None]:
        with explain(self.folder), explain_refusals(self.folder, "written"):
            yield

    def _whole_steps(self) -> list[int]:
        """What is on disk; Orbax's own list has what is being written, and not what it removes."""
        return sorted(ocp.utils.checkpoint_steps(self.folder)) if self.folder.is_dir() else []

    def _what_is_left(self) -> str:
        if not self.folder.is_dir():
            return f"{self.folder} is gone, with its checkpoints"
        steps = self._whole_steps()
        return f"the last whole checkpoint is that of step {steps[-1]}" if steps else NONE_YET


def _manifest(
    step: int, run: Mapping[str, str], state: TrainState, data_state: Any
) -> dict[str, Any]:
    """What a checkpoint must hold, as JSON.

    Raises:
      FloatingPointError: not all numbers of the state are finite.
    """
    arrays = by_path(state)
    try:
        sums = checksums(arrays)
    except ValueError as error:
        raise FloatingPointError(
            f"step {step}: {error}; this step is not saved, and the same command goes on from the "
            "last checkpoint"
        ) from None
    return {
        "step": step,
        "run": dict(run),
        "data": json_digest(data_state),
        "arrays": {name: _kind(leaf) for name, leaf in arrays.items()},
        "checksums": sums,
    }


def _kind(leaf: jax.Array | jax.ShapeDtypeStruct) -> str:
    """Dtype and shape, such as `float32[2,3]`."""
    return f"{np.dtype(leaf.dtype).name}[{','.join(map(str, leaf.shape))}]"


def _other_origin(manifest: Mapping[str, Any], step: int, run: Mapping[str, str]) -> str:
    """What to say of a checkpoint of another step or another run; empty where it is neither."""
    if manifest["step"] != step:
        return f"was saved at step {manifest['step']}"
    saved = manifest["run"]
    others = sorted(x for x in saved.keys() | run.keys() if saved.get(x) != run.get(x))
    return f"is of another run, with another {' and '.join(others)}" if others else ""


def _other_arrays(manifest: Mapping[str, Any], like: Any) -> str:
    """What to say of arrays that have other shapes or dtypes than are wanted; empty for none."""
    saved = manifest["arrays"]
    wanted = {name: _kind(leaf) for name, leaf in by_path(like).items()}
    return _some(
        f"{name} is {saved.get(name, 'missing')}, expected {kind}"
        for name, kind in wanted.items()
        if saved.get(name) != kind
    )


def _damage(manifest: Mapping[str, Any], restored: Mapping[str, Any]) -> str:
    """What to say of numbers that are not those that were saved; empty where all are."""
    try:
        found = checksums(by_path(restored["state"]))
    except ValueError as error:
        return f"is damaged: {error}"
    saved = manifest["checksums"]
    bad = [name for name, checksum in found.items() if saved.get(name) != checksum]
    if "data" in restored and json_digest(restored["data"]) != manifest["data"]:
        bad.append("the position in the data")
    return f"is damaged: not as it was saved is {_some(bad)}" if bad else ""


def _some(names: Iterable[str], shown: int = 4) -> str:
    """The first few of many."""
    names = list(names)
    return ", ".join(names[:shown]) + f" and {len(names) - shown} more" * (len(names) > shown)


def abstract_state(state: TrainState) -> TrainState:
    """Shapes, dtypes and shardings of a state, without its values."""
    return jax.tree.map(ocp.utils.to_shape_dtype_struct, state)


@dataclasses.dataclass(frozen=True)
class _KeepBest(policies.PreservationPolicy):
    """Keeps the checkpoint of the best evaluation."""

    best: Callable[[], int | None]

    def should_preserve(self, checkpoints, *, context) -> list[bool]:
        best = self.best()
        return [checkpoint.step == best for checkpoint in checkpoints]
