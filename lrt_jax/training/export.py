"""A trained policy as a Hugging Face folder."""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from etils import epath

from lrt_jax import __version__
from lrt_jax.config import Config
from lrt_jax.data import conversation
from lrt_jax.data.mixture import parts_of
from lrt_jax.data.selection import Rows, training_rows
from lrt_jax.data.trained_on import TrainedOn
from lrt_jax.disk import read_json
from lrt_jax.models import (
    CARD,
    SETTINGS,
    TRAINED_ON,
    Qwen2_5_VL,
    abstract_params,
    folder_digest,
    read_config,
    save_pretrained,
)
from lrt_jax.parallel import processes
from lrt_jax.parallel.mesh import make_mesh
from lrt_jax.reporting.model_card import licence_file, model_card
from lrt_jax.training.checkpoint import Checkpointer
from lrt_jax.training.data import drop_ties
from lrt_jax.training.evaluations import measured
from lrt_jax.training.files import check_same_inputs, recorded_config, write_json
from lrt_jax.training.roles import model_folder, model_name
from lrt_jax.training.setup import Run
from lrt_jax.workdir import EXPORT

CONFIG = "config.json"


def export_checkpoint(
    workdir: epath.Path, folder: Path, *, step: int = 0, dtype: str | None = None
) -> int:
    """Writes the policy of a checkpoint, as `export_params`, from all devices that there are.

    Neither data, listeners nor optimizer are opened, nor weights but the checkpoint's.

    Args:
      workdir: of the run, on this machine or in a bucket.
      folder: to write.
      step: of the checkpoint; 0 for the last.
      dtype: of all tensors, `float32` or `bfloat16`; None for the source's, tensor by tensor.

    Returns:
      The step.

    Raises:
      FileNotFoundError: no run, or no such checkpoint.
      ValueError: the model that the run started from is another now.
    """
    config = recorded_config(workdir)
    source = model_folder(config.model.path)
    check_same_inputs({"model": folder_digest(source)}, workdir)
    model = Qwen2_5_VL(read_config(source))
    like = abstract_params(model, make_mesh(), "train", jnp.dtype(config.model.param_dtype))
    with Checkpointer(workdir, keep=0) as checkpointer:
        step = processes.told("step", checkpointer.find(step))
        params = checkpointer.restore_params(step, like, config.model.freeze)
    export_params(params, folder, workdir, step=step, dtype=dtype)
    return step


def export_params(
    params: Mapping,
    folder: Path,
    workdir: epath.Path | Path,
    *,
    step: int,
    dtype: str | None = None,
) -> None:
    """Writes a policy in the hub's layout, with what is needed to ask it the same way again.

    Every process of the run must call it.

    Args:
      params: of the policy.
      folder: to write, see `save_pretrained`.
      workdir: of the run that the policy was trained by.
      step: after which it is exported.
      dtype: of all tensors, `float32` or `bfloat16`; None for the source's, tensor by tensor.
    """
    config = recorded_config(workdir)
    source, texts = model_folder(config.model.path), {}
    if processes.is_first():  # which alone writes them, and has what they are made of
        texts = _texts(config, workdir, step)
        if dtype is not None:
            texts[CONFIG] = _config_with(dtype, source)
    cast = jnp.dtype(dtype) if dtype is not None else None
    save_pretrained(params, folder, source=source, texts=texts, dtype=cast)


def _texts(config: Config, workdir: epath.Path | Path, step: int) -> dict[str, str]:
    """Card, settings and licence, by file name."""
    recorded = read_json(_recorded(workdir, SETTINGS))
    source = model_folder(config.model.path)
    results = measured(config, workdir, step)
    licence = licence_file(source)
    return {
        CARD: model_card(config, recorded, source, step=step, results=results),
        SETTINGS: json.dumps(recorded, indent=2) + "\n",
        TRAINED_ON: _recorded(workdir, TRAINED_ON).read_text(),
        **({licence.name: licence.read_text()} if licence else {}),
    }


def _config_with(dtype: str, source: Path) -> str:
    """`config.json` of a folder that says another dtype, which programs open the tensors in."""
    content = read_json(source / CONFIG)
    parts = [content, *(content.get(name, {}) for name in ("text_config", "vision_config"))]
    for part in parts:
        part.update({name: dtype for name in ("torch_dtype", "dtype") if name in part})
    if not {"torch_dtype", "dtype"} & content.keys():
        content["torch_dtype"] = dtype
    return json.dumps(content, indent=2) + "\n"


def record_settings(run: Run, workdir: Path) -> None:
    """Keeps what a run says of itself, for exports that open neither its data nor its listeners."""
    write_json(workdir / SETTINGS, settings(run))
    write_json(workdir / TRAINED_ON, _trained_on(run).to_json())


def _recorded(workdir: epath.Path | Path, name: str) -> epath.Path | Path:
    path = workdir / name
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: no such file; copy that of {workdir / EXPORT} to it, or if there is none, "
            "give the run's own command again, which writes it anew"
        )
    return path


def settings(run: Run) -> dict:
    """Prompts, image policy, listener and digests: what a scorer must do as training did."""
    config, policy, policy_prompt = run.config, run.encoder.policy, run.encoder.prompt
    return {
        "lrt_jax": __version__,
        "algorithm": config.algorithm,
        "prompt": {
            "style": "reason",
            "question": conversation.QUESTION,
            "task": conversation.REASON,
            "tokens": policy_prompt.bucket,
        },
        "images": {
            "min_pixels": policy.min_pixels,
            "max_pixels": policy.max_pixels,
            "max_patches": policy.max_patches,
            "one_grid": policy.one_grid,
        },
        "sampling": {
            "max_completion_length": config.max_completion_length,
            "temperature": config.temperature,
            "top_p": config.top_p,
        },
        "listeners": [
            {
                "model": model_name(asked.path or config.model.path),
                "style": x.style,
                "share": x.share,
            }
            for asked, x in zip(config.listeners, run.engine.listeners, strict=False)
        ],
        "trained_from": {
            "model": model_name(config.model.path),
            "fresh": config.model.fresh,
            "config_sha256": _digest(run.folder),
        },
        "data": {
            "source": config.data.source,
            "fingerprints": [part.fingerprint for part in parts_of(run.prepared)],
            "train_split": config.data.train_split,
            "train_pairs": len(_training_rows(run)),
        },
    }


def _training_rows(run: Run) -> Rows:
    data = run.config.data
    return training_rows(run.prepared, data.train_split, drop_ties(run.config), run.left_out)


def _trained_on(run: Run) -> TrainedOn:
    """What a run trains on, and what the model that it starts from was trained on."""
    mine, path = TrainedOn.of(run.prepared, _training_rows(run)), run.folder / TRAINED_ON
    return mine if run.config.model.fresh or not path.is_file() else mine | TrainedOn.read(path)


def apart_from_training(run: Run, *, skip: bool, say: Callable[[str], None]) -> Run:
    """Keeps an evaluation away from what its model was trained on, whichever set that was in.

    Args:
      run: of the evaluation; its policy is what is evaluated.
      skip: whether pairs that were trained on, or show an image that was, are left out.
      say: told how many are left out, or that a model of ours does not say what it was trained on.

    Returns:
      The run, which leaves them out.

    Raises:
      ValueError: there are such pairs, and they are not to be left out, or nothing else is left.
    """
    path, split = run.folder / TRAINED_ON, run.config.eval.split
    if not path.is_file():
        if (run.folder / SETTINGS).is_file():
            say(f"note: {run.folder}: no {TRAINED_ON}, so nobody can say what it was trained on")
        return run
    trained = TrainedOn.read(path)
    rows = _rows_of(run, split)
    pairs, images = trained.seen(run.prepared, rows)
    hit = pairs | images
    if not hit.any():
        return run
    told = (
        f"{pairs.sum():,} of {len(rows):,} pairs of split {split!r} were trained on, and "
        f"{(images & ~pairs).sum():,} more show images that were"
    )
    if hit.all() or not skip:
        raise ValueError(f"{run.folder}: {told}; {_untrained(run, trained, hit.all())}")
    say(f"evaluation: {told}; they are left out")
    return dataclasses.replace(run, left_out=np.union1d(run.left_out, rows[hit]))


def _rows_of(run: Run, split: str) -> Rows:
    return np.setdiff1d(np.asarray(run.prepared.rows(split), np.int64), run.left_out)


def _untrained(run: Run, trained: TrainedOn, everything: bool) -> str:
    """What can be evaluated instead."""
    others = [
        f"--split={name}"
        for name in run.prepared.splits
        if not np.any(trained.seen(run.prepared, _rows_of(run, name)))
    ]
    ways = [f"take {' or '.join(others)}"] if others else []
    ways += [] if everything else ["leave them out with --on_trained_pairs=skip"]
    return ", or ".join(ways or ["take other data"])


def _digest(folder: Path) -> str:
    return hashlib.sha256((folder / "config.json").read_bytes()).hexdigest()
