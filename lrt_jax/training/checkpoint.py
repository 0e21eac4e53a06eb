"""Checkpoints: state and data position as one atomic Orbax item."""

import contextlib
import dataclasses
import gc
from collections.abc import Callable, Iterator, Mapping, Sequence

import jax
import orbax.checkpoint as ocp
import orbax.checkpoint.checkpoint_managers as policies
from etils import epath

from lrt_jax.bucket import BucketError, is_address, refusals_told
from lrt_jax.data.pipeline import TrainLoader
from lrt_jax.disk import REFUSALS, check_space, read_plainly, told_plainly
from lrt_jax.rl.learner import join_frozen, split_frozen
from lrt_jax.training.state import TrainState
from lrt_jax.workdir import CHECKPOINTS, check_path

NONE_YET = "there is no whole checkpoint yet"


class Checkpointer:
    """Saves and restores a run. A context manager: leaving it waits for what is being written.

    Args:
      workdir: of the run, on this machine or in a bucket (`gs://`).
      keep: how many of the last checkpoints stay; 0 only reads them.
      best: step of the best evaluation so far, whose checkpoint stays too; None before the first.

    Raises:
      ValueError: checkpoints cannot be kept under that path.
    """

    def __init__(
        self, workdir: epath.PathLike, keep: int, best: Callable[[], int | None] = lambda: None
    ):
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

    def __enter__(self) -> "Checkpointer":
        return self

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
    def behind(self) -> bool:
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
          OSError: there is no room for it, or what was still being written could not be.
          BucketError: likewise, in a bucket.
        """
        self.wait()  # what was being written takes up room too
        if self._is_here:
            check_space(self.folder, sum(leaf.nbytes for leaf in jax.tree.leaves(state)))
        with self._written_plainly():
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(state), data=ocp.args.JsonSave(data.get_state())
                ),
            )

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
          like: of `abstract`.
          data: is moved to where it stood, if given; the place is the same in every process.
        """
        items = {"state": ocp.args.StandardRestore(like)}
        if data is not None:
            items["data"] = ocp.args.JsonRestore()
        path = self.folder / str(step)
        others = [other for other in self._whole_steps() if other < step]
        after = f"the run then goes on from step {others[-1]}" if others else "it is the only one"
        with read_plainly(path, f"remove this checkpoint: {after}"), refusals_told(path, "read"):
            restored = self._manager.restore(step, args=ocp.args.Composite(**items))
        if data is not None:
            data.set_state(restored["data"])
        return restored["state"]

    def restore_params(self, step: int, like: Mapping, freeze: Sequence[str]) -> dict:
        """Reads the parameters alone: the optimizer's moments would take twice their memory.

        Args:
          step: of the checkpoint.
          like: `jax.ShapeDtypeStruct`s with shardings, nested as the parameters.
          freeze: patterns of the parameters that the run does not train.
        """
        trainable, frozen = split_frozen(like, freeze)
        item = {"trainable": trainable, "frozen": frozen}
        path = self.folder / str(step)
        with read_plainly(path, "take another --step"), refusals_told(path, "read"):
            restored = self._manager.restore(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.PyTreeRestore(
                        item,
                        restore_args=ocp.checkpoint_utils.construct_restore_args(item),
                        partial_restore=True,
                    )
                ),
            )["state"]
        return join_frozen(restored["trainable"], restored["frozen"])

    @contextlib.contextmanager
    def _written_plainly(self) -> Iterator[None]:
        with told_plainly(self.folder), refusals_told(self.folder, "written"):
            yield

    def _whole_steps(self) -> list[int]:
        """What is on disk; Orbax's own list has what is being written, and not what it removes."""
        return sorted(ocp.utils.checkpoint_steps(self.folder)) if self.folder.is_dir() else []

    def _what_is_left(self) -> str:
        if not self.folder.is_dir():
            return f"{self.folder} is gone, with its checkpoints"
        steps = self._whole_steps()
        return f"the last whole checkpoint is that of step {steps[-1]}" if steps else NONE_YET


def abstract(state: TrainState) -> TrainState:
    """Shapes, dtypes and shardings of a state, without its values."""
    return jax.tree.map(ocp.utils.to_shape_dtype_struct, state)


@dataclasses.dataclass(frozen=True)
class _KeepBest(policies.PreservationPolicy):
    """Keeps the checkpoint of the best evaluation."""

    best: Callable[[], int | None]

    def should_preserve(self, checkpoints, *, context) -> list[bool]:
        best = self.best()
        return [checkpoint.step == best for checkpoint in checkpoints]
