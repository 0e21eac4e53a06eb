"""Drawn scenes: how the built-in tiny model was made, and what it is tried on.

    python -m lrt_jax.main --config=configs/scenes.py:sft

Presets: `sft` teaches fresh weights of the tiny model to describe and compare two scenes, from
traces with slips in them; its export is the model that ships.
"""

from lrt_jax.config import default_config
from lrt_jax.presets import SCENES_SFT


def get_config(preset: str = "sft"):
    if preset != "sft":
        raise ValueError(f"preset {preset!r} is not one of sft")
    config = default_config()
    config.update(SCENES_SFT)
    return config
