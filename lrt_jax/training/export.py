"""A trained policy as a Hugging Face folder."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import jax.numpy as jnp
from etils import epath

from lrt_jax import __version__
from lrt_jax.config import Config
from lrt_jax.data import conversation
from lrt_jax.data.mixture import parts_of
from lrt_jax.data.selection import Rows, training_rows
from lrt_jax.data.tables import ALL
from lrt_jax.disk import read_json
from lrt_jax.models import (
    CARD,
    SETTINGS,
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
from lrt_jax.training.data import criteria_of, drop_ties
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
    recorded, source = _recorded_settings(workdir), model_folder(config.model.path)
    results = measured(config, workdir, step)
    licence = licence_file(source)
    return {
        CARD: model_card(config, recorded, source, step=step, results=results),
        SETTINGS: json.dumps(recorded, indent=2) + "\n",
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
    """Keeps the settings of a run, for exports that open neither its data nor its listeners."""
    write_json(workdir / SETTINGS, settings(run))


def _recorded_settings(workdir: epath.Path | Path) -> dict:
    path = workdir / SETTINGS
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: no such file; copy that of {workdir / EXPORT} to it, or if there is none, "
            "give the run's own command again, which writes it anew"
        )
    return read_json(path)


def settings(run: Run) -> dict:
    """Prompts, image policy, listener and digests: what a scorer must do as training did."""
    config, policy, policy_prompt = run.config, run.encoder.policy, run.encoder.prompt
    wordings = {by: conversation.WORDINGS[by]._asdict() for by in criteria_of(run.prepared)}
    criterion = next(iter(wordings))
    return {
        "lrt_jax": __version__,
        "algorithm": config.algorithm,
        "prompt": {
            "style": "reason",
            "criterion": criterion,
            **wordings[criterion],
            "criteria": wordings,
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


def refuse_training_data(run: Run) -> None:
    """Refuses to evaluate a model of ours on the split that it was trained on.

    Raises:
      ValueError: the run's policy was, and the evaluation split holds that split's pairs.
    """
    path = run.folder / SETTINGS
    data = read_json(path)["data"] if path.is_file() else {}
    trained_on = data.get("fingerprints", [data.get("fingerprint")])
    known = {part.fingerprint for part in parts_of(run.prepared)} & {*trained_on}
    split, seen = run.config.eval.split, data.get("train_split")
    if known and split in (seen, ALL):
        others = [name for name in run.prepared.splits if name != seen]
        raise ValueError(
            f"{run.folder} was trained on the split {seen!r} of these data; take --split="
            f"{' or --split='.join(others)}"
        )


def _digest(folder: Path) -> str:
    return hashlib.sha256((folder / "config.json").read_bytes()).hexdigest()
