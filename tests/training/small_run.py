"""A small data set in a published layout, and a config for it."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from lrt_jax.config import Config
from lrt_jax.presets import preset_config

GROUPS, IMAGES = 20, 3


def write_hpdv2(folder: Path) -> Path:
    """Captions with three ranked images of odd sizes, as HPDv2's test layout."""
    rng = np.random.default_rng(0)
    (folder / "images").mkdir(parents=True)
    records = []
    for group in range(GROUPS):
        paths = [f"{group:03}-{i}.png" for i in range(IMAGES)]
        for path in paths:
            height, width = rng.integers(60, 120, 2)
            pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / "images" / path)
        ranks = [rng.permutation(IMAGES).tolist() for _ in range(5)]
        records.append(
            {
                "prompt": f"a picture of thing number {group}" + ", in detail" * (group % 4),
                "image_path": paths,
                "rank": np.mean(ranks, axis=0).tolist(),
                "raw_annotations": [{"rank": r, "user_hash": str(i)} for i, r in enumerate(ranks)],
            }
        )
    (folder / "test.json").write_text(json.dumps(records))
    return folder


def tiny_config(data: Path, **changes) -> Config:
    """The tiny preset, smaller still; `changes` are dotted fields."""
    config = preset_config("tiny")
    config.data.path = str(data)
    config.data.split_fractions = {"train": 0.7, "validation": 0.3}
    smaller = {
        "steps": 4,
        "batch_size": 4,
        "group_size": 3,
        "checkpoint_every": 2,
        "completions_every": 2,
        "data.max_patches": 64,
        "data.prompt_tokens": 224,
        "data.judge_tokens": 224,
        "data.threads": 2,
        "eval.every": 2,
        "eval.pairs": 4,
        "eval.batch_size": 4,
        "optimizer.warmup_steps": 0,
    }
    config.update_from_flattened_dict(smaller | changes)
    return Config.parse(config)
