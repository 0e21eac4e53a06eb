"""A trained policy as a Hugging Face folder."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from lrt_jax import __version__
from lrt_jax.data import conversation
from lrt_jax.data.mixture import parts_of
from lrt_jax.data.tables import ALL
from lrt_jax.disk import read_json
from lrt_jax.models import save_pretrained
from lrt_jax.training.setup import Run

SETTINGS = "lrt_jax.json"


def export_params(params: Mapping, folder: Path, run: Run, *, step: int) -> Path:
    """Writes the policy in the hub's layout, with what is needed to ask it the same way again.

    Every process of the run must call it.

    Args:
      params: of the policy.
      folder: to write, see `save_pretrained`.
      run: that the policy was trained by.
      step: after which it is exported.
    """
    texts = {
        "README.md": _card(run, step),
        SETTINGS: json.dumps(settings(run), indent=2) + "\n",
    }
    save_pretrained(params, folder, source=run.folder, texts=texts)
    return folder


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
            {"model": Path(x.frozen.checkpoint).name, "style": x.style, "share": x.share}
            for x in run.engine.listeners
        ],
        "trained_from": {
            "model": config.model.path,
            "fresh": config.model.fresh,
            "config_sha256": _digest(run.folder),
        },
        "data": {
            "source": config.data.source,
            "fingerprints": [part.fingerprint for part in parts_of(run.prepared)],
            "train_split": config.data.train_split,
        },
    }


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


def _card(run: Run, step: int) -> str:
    config = run.config
    listener = (
        f"listener weight {config.listener.weight}" if config.uses_listener else "no listener"
    )
    origin = f"`{config.model.path}`"
    if config.model.fresh:
        origin = f"fresh weights in the sizes of {origin}"
    return f"""---
library_name: transformers
pipeline_tag: image-text-to-text
tags: [reward-model, image-preference, grpo]
---
# {config.algorithm} on {config.data.source}

A reasoner about image preferences: shown a caption and two images, it thinks inside
`<think></think>` and gives the number of the image that people prefer inside `<answer></answer>`.

Trained by lrt_jax {__version__} from {origin} with {config.algorithm} ({listener}),
{step} steps of {config.batch_size} pairs x {config.group_size} completions, seed
{config.seed}. `{SETTINGS}` holds the prompt and the image sizes to use it with.
"""
