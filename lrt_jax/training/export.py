"""A trained policy as a Hugging Face folder."""

import dataclasses
import hashlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from etils import epath

from lrt_jax import __version__, assets
from lrt_jax.algorithms import method_of, name_of
from lrt_jax.config import Config
from lrt_jax.data.dataset.mixture import parts_of
from lrt_jax.data.dataset.selection import Rows
from lrt_jax.data.dataset.trained_on import TrainedOn
from lrt_jax.data.input import prompts
from lrt_jax.models import (
    CARD,
    SETTINGS,
    TRAINED_ON,
    abstract_params,
    check_replaceable,
    empty_model,
    folder_digest,
    save_pretrained,
)
from lrt_jax.models.folders import model_folder, model_name
from lrt_jax.parallel import processes
from lrt_jax.parallel.mesh import make_mesh
from lrt_jax.reporting.model_card import model_card
from lrt_jax.storage.digests import check_seal, sealed
from lrt_jax.storage.disk import expanded, read_json, read_plainly
from lrt_jax.storage.workdir import EXPORT
from lrt_jax.training.checkpoint import Checkpointer
from lrt_jax.training.data import criteria_of
from lrt_jax.training.evaluations import measured
from lrt_jax.training.files import (
    check_same_inputs,
    recorded_config,
    recorded_inputs,
    run_digests,
    write_json,
)
from lrt_jax.training.setup import Run

logger = logging.getLogger(__name__)

CONFIG = "config.json"
GENERATION = "generation_config.json"
IMAGE_PROCESSOR = "preprocessor_config.json"
ALL_PROCESSORS = "processor_config.json"  # of newer folders, which nest that of images in it
REMEDY = "an export has its card and configs from there: mend or rename it, or name another model"
RECORDED = {  # fields that an export has from these files of a run
    SETTINGS: ("lrt_jax", "prompt", "images", "sampling", "listeners", "trained_from", "data"),
    TRAINED_ON: ("images", "pairs"),
}
TOKEN_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")
AnyPath = epath.Path | Path  # in a bucket, or on this machine


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
      FileExistsError: the folder is not to be written to, see `export_params`.
      FileNotFoundError: no run, or no such checkpoint.
      ValueError: the model that the run started from is another now; or the checkpoint is damaged
        or another run's.
    """
    config = recorded_config(workdir)
    _refuse_models(config, folder)
    source = model_folder(config.model.path)
    check_same_inputs({"model": folder_digest(source)}, workdir)
    model = empty_model(source)
    like = abstract_params(model, make_mesh(), "train", jnp.dtype(config.model.param_dtype))
    digests = run_digests(config, recorded_inputs(workdir))
    with Checkpointer(workdir, keep=0, run=digests) as checkpointer:
        step = processes.broadcast("step", checkpointer.find(step))
        params = checkpointer.restore_params(step, like, config.model.freeze)
    export_params(params, folder, workdir, step=step, dtype=dtype)
    return step


def export_params(
    params: Mapping, folder: Path, workdir: AnyPath, *, step: int, dtype: str | None = None
) -> None:
    """Writes a policy in the hub's layout, with what is needed to ask it the same way again.

    Every process of the run must call it.

    Args:
      params: of the policy.
      folder: to write, see `save_pretrained`.
      workdir: of the run that the policy was trained by.
      step: after which it is exported.
      dtype: of all tensors, `float32` or `bfloat16`; None for the source's, tensor by tensor.

    Raises:
      FileExistsError: the folder is that of a model which the run reads, or holds a file that no
        export wrote.
    """
    config = recorded_config(workdir)
    _refuse_models(config, folder)
    source, files = model_folder(config.model.path), {}
    if processes.is_first():  # which alone writes them, and has what they are made of
        files = _files(config, workdir, step, dtype)
    cast = jnp.dtype(dtype) if dtype is not None else None
    save_pretrained(params, folder, source=source, files=files, dtype=cast)


def check_exportable(workdir: Path) -> None:
    """Checks before the first step that an export can be made: all of it but the weights.

    Args:
      workdir: of a run whose config and settings are recorded.

    Raises:
      FileExistsError: the folder of its export is not to be written to, see `export_params`.
      ValueError: a file of the model that the run starts from cannot be used.
    """
    config = recorded_config(workdir)
    _refuse_models(config, workdir / EXPORT)
    check_replaceable(workdir / EXPORT)
    with read_plainly(model_folder(config.model.path), REMEDY):
        _files(config, workdir, 0, None)


def _refuse_models(config: Config, folder: Path) -> None:
    """Refuses to write over a model that a run reads, and that it or others may read again."""
    listeners = (*config.listeners, *config.evaluating_listeners)
    for path in {config.model.path, *(x.path for x in listeners if x.path)}:
        named = assets.built_in_model(path) if path in assets.BUILT_IN else Path(expanded(path))
        if named.is_dir() and folder.resolve() in {x.resolve() for x in (named, named / EXPORT)}:
            raise FileExistsError(f"{folder}: the run reads the model in it; take another folder")


def _files(config: Config, workdir: AnyPath, step: int, dtype: str | None) -> dict[str, bytes]:
    """Contents of what an export has beside its weights and is not the source's, by file name."""
    recorded = _recorded(workdir, SETTINGS)
    source = model_folder(config.model.path)
    results = measured(config, workdir, step)
    method = method_of(config)
    texts = {
        CARD: model_card(config, recorded, source, method=method, step=step, results=results),
        SETTINGS: _json(recorded),
        TRAINED_ON: _json(_recorded(workdir, TRAINED_ON)),
        GENERATION: generation_config(recorded["sampling"], source),
        **processor_configs(recorded["images"], source),
    }
    if dtype is not None:
        texts[CONFIG] = _config_with(dtype, source)
    return {name: text.encode() for name, text in texts.items()}


def _json(content: Mapping) -> str:
    return json.dumps(content, indent=2) + "\n"


def generation_config(sampling: Mapping, source: Path) -> str:
    """`generation_config.json` of a folder, by which programs sample as the run did.

    Of the source's only the tokens stay: its other fields change what is sampled, and where one is
    missing programs take a default of theirs.

    Args:
      sampling: of `settings`.
      source: folder of the model that the run started from.
    """
    known = read_json(source / GENERATION) if (source / GENERATION).is_file() else {}
    return _json(
        {name: known[name] for name in TOKEN_IDS if name in known}
        | {
            "eos_token_id": sampling["stop_ids"],
            "do_sample": True,
            "temperature": sampling["temperature"],
            "top_p": sampling["top_p"],
            "top_k": 0,  # of all tokens
            "repetition_penalty": 1.0,
            "max_new_tokens": sampling["max_completion_length"],
        }
    )


def processor_configs(images: Mapping, source: Path) -> dict[str, str]:
    """The files of a folder's image processor, with the sizes that the run brought images to.

    Args:
      images: of `settings`.
      source: folder of the model that the run started from.
    """
    texts = {}
    for name in (IMAGE_PROCESSOR, ALL_PROCESSORS):
        content = read_json(source / name) if (source / name).is_file() else {}
        part = content.get("image_processor", {}) if name == ALL_PROCESSORS else content
        if part:
            _set_sizes(part, images["min_pixels"], images["max_pixels"])
            texts[name] = _json(content)
    return texts


def _set_sizes(processor: dict, least: int, most: int) -> None:
    """Sets the pixels of an image, in the fields in which a processor's config has them."""
    if "size" in processor:
        processor["size"] = {"shortest_edge": least, "longest_edge": most}
    bounds = {"min_pixels": least, "max_pixels": most}
    if "size" not in processor or bounds.keys() & processor.keys():
        processor.update(bounds)


def _config_with(dtype: str, source: Path) -> str:
    """`config.json` of a folder that says another dtype, which programs open the tensors in."""
    content = read_json(source / CONFIG)
    parts = [content, *(content.get(name, {}) for name in ("text_config", "vision_config"))]
    for part in parts:
        part.update({name: dtype for name in ("torch_dtype", "dtype") if name in part})
    if not {"torch_dtype", "dtype"} & content.keys():
        content["torch_dtype"] = dtype
    return _json(content)


def record_settings(run: Run, workdir: Path) -> None:
    """Keeps what a run says of itself, for exports that open neither its data nor its listeners."""
    if processes.is_first():  # which alone writes them
        write_json(workdir / SETTINGS, sealed(settings(run)))
        write_json(workdir / TRAINED_ON, sealed(_trained_on(run).to_json()))


def _recorded(workdir: AnyPath, name: str) -> dict:
    """What `record_settings` wrote.

    Raises:
      FileNotFoundError: the file is gone.
      ValueError: it is not what was written.
    """
    path = workdir / name
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: no such file; copy that of {workdir / EXPORT} to it, or if there is none, "
            "give the run's own command again, which writes it anew"
        )
    with read_plainly(path, f"copy that of {workdir / EXPORT} to it"):
        content = read_json(path)
        check_seal(content)
        if lacks := [field for field in RECORDED[name] if field not in content]:
            raise ValueError(f"it has no {', '.join(lacks)}")
    return content


def settings(run: Run) -> dict:
    """Prompts, image policy, listener and digests: what a scorer must do as training did."""
    config, policy, policy_prompt = run.config, run.encoder.policy, run.encoder.prompt
    by_criterion = {by: prompts.wording(by, config.prompts) for by in criteria_of(run.prepared)}
    wordings = {by: wording._asdict() for by, wording in by_criterion.items()}
    frame = dict(zip(("before", "after"), prompts.judge_frame(config.prompts), strict=True))
    criterion = next(iter(wordings))
    return {
        "lrt_jax": __version__,
        "algorithm": name_of(config),
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
            "stop_ids": [*run.sampling.stop_ids],
        },
        "listeners": [
            {
                "model": model_name(asked.path or config.model.path),
                "style": x.style,
                "share": x.share,
                **(frame if x.style == "judge" else {}),
            }
            for asked, x in zip(config.listeners, run.engine.listeners, strict=False)
        ],
        **_held_out(run),
        "trained_from": {
            "model": model_name(config.model.path),
            "from_scratch": config.model.from_scratch,
            "config_sha256": hashlib.sha256((run.folder / CONFIG).read_bytes()).hexdigest(),
        },
        "data": {
            "source": config.data.source,
            "fingerprints": [part.fingerprint for part in parts_of(run.prepared)],
            "train_split": config.data.train_split,
            "train_pairs": len(run.training_rows),
        },
    }


def _held_out(run: Run) -> dict:
    """The held-out listener, as `settings` has it; nothing without one."""
    if run.engine.held_out is None:
        return {}
    asked = run.config.held_out
    return {"held_out_listener": {"model": model_name(asked.path), "style": asked.style}}


def _trained_on(run: Run) -> TrainedOn:
    """What a run trains on, and what the model that it starts from was trained on."""
    mine, path = TrainedOn.of(run.prepared, run.training_rows), run.folder / TRAINED_ON
    if run.config.model.from_scratch or not path.is_file():
        return mine
    return mine | TrainedOn.read(path)


def apart_from_training(run: Run, *, skip: bool) -> Run:
    """Keeps an evaluation away from what its model was trained on, whichever set that was in.

    The log holds how many pairs are left out, or that nobody can tell what was trained on.

    Args:
      run: of the evaluation; its policy is what is evaluated.
      skip: whether pairs that were trained on, or show an image that was, are left out.

    Returns:
      The run, which leaves them out.

    Raises:
      ValueError: there are such pairs, and they are not to be left out, or nothing else is left.
    """
    path, split = run.folder / TRAINED_ON, run.config.eval.split
    if not path.is_file():
        if (run.folder / SETTINGS).is_file():
            untold = f"no {TRAINED_ON}, so nobody can say what it was trained on"
            logger.info(f"note: {run.folder}: {untold}")
        return run
    trained = TrainedOn.read(path)
    rows = _rows_of(run, split)
    pairs, images = trained.seen(run.prepared, rows)
    hit = pairs | images
    if not hit.any():
        return run
    message = (
        f"{pairs.sum():,} of {len(rows):,} pairs of split {split!r} were trained on, and "
        f"{(images & ~pairs).sum():,} more show images that were"
    )
    if hit.all() or not skip:
        raise ValueError(f"{run.folder}: {message}; {_untrained(run, trained, hit.all())}")
    logger.info(f"evaluation: {message}; they are left out")
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
