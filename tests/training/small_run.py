"""A small data set in a published layout, and a config for it."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from lrt_jax.config import Config, parse_config
from lrt_jax.config.presets import preset_config
from lrt_jax.storage.workdir import LocalWorkdir
from lrt_jax.training.loop import train
from tests.logs import logged

GROUPS, IMAGES = 20, 3
SHORT = {
    "steps": 4,
    "batch_size": 4,
    "checkpoint_every": 2,
    "data.threads": 2,
    "eval.batch_size": 4,
    "eval.others": (),
    "eval.held_out_listener": None,
}


def write_hpdv2(folder: Path, seed: int = 0) -> Path:
    """Captions with three images of odd sizes, judged by five people, in HPDv2's layout."""
    rng = np.random.default_rng(seed)
    (folder / "images").mkdir(parents=True)
    records = []
    for group in range(GROUPS):
        paths = [f"{group:03}-{i}.png" for i in range(IMAGES)]
        for path in paths:
            height, width = rng.integers(60, 120, 2)
            pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / "images" / path)
        prompt = f"a picture of thing number {group}" + ", in detail" * (group % 4)
        for ranks in [rng.permutation(IMAGES).tolist() for _ in range(5)]:
            for i, j in itertools.combinations(range(IMAGES), 2):
                first = int(ranks[i] < ranks[j])
                judged = {"file_path": [paths[i], paths[j]], "human_preference": [first, 1 - first]}
                records.append({"prompt": prompt} | judged)
    (folder / "train.json").write_text(json.dumps(records))
    return folder


def tiny_config(data: Path, **changes) -> Config:
    """The tiny preset, smaller still; `changes` are dotted fields."""
    config = preset_config("tiny")
    config.data.path = str(data)
    config.data.split_fractions = {"train": 0.7, "validation": 0.3}
    smaller = {
        "group_size": 3,
        "completions_every": 2,
        "data.max_patches": 64,
        "data.near_duplicates": "keep",
        "data.prompt_tokens": 224,
        "data.judge_tokens": 224,
        "eval.every": 2,
        "eval.pairs": 4,
        "optimizer.warmup_steps": 0,
    }
    config.update_from_flattened_dict(SHORT | smaller | changes)
    return parse_config(config)


def sft_config(**changes) -> Config:
    """What `configs/scenes.py` does, on fewer scenes, which the run draws itself."""
    config = preset_config("sft", of=("sft",))
    few = {
        "eval.pairs": 2,
        "loss.microbatches": 1,
        "data.scenes.train": 4,
        "data.scenes.validation": 2,
        "data.scenes.test": 1,
    }
    config.update_from_flattened_dict(SHORT | few | changes)
    return parse_config(config)


def train_interrupted(config: Config, workdir: Path, monkeypatch, *, step: int, by: type) -> list:
    """Trains, ends with Ctrl-C before a step, and goes on.

    Args:
      config: of the run.
      workdir: its folder.
      monkeypatch: the fixture.
      step: that does not begin at first.
      by: the algorithm that takes it.

    Returns:
      What the second call logged, line by line.
    """
    take_step = by.step

    def stopping(self, state, batch, number, monitor):
        if number == step:
            raise KeyboardInterrupt
        return take_step(self, state, batch, number, monitor)

    monkeypatch.setattr(by, "step", stopping)
    with pytest.raises(KeyboardInterrupt):
        train(config, LocalWorkdir(workdir))
    monkeypatch.setattr(by, "step", take_step)
    with logged() as lines:
        train(config, LocalWorkdir(workdir))
    return lines


def exported_bytes(workdir: Path) -> dict[str, bytes]:
    """Every parameter that a run exported."""
    weights = load_file(workdir / "export" / "model.safetensors")
    return {name: weight.tobytes() for name, weight in weights.items()}
