"""Drawn scenes: how the built-in tiny model was made, and what it is tried on.

    python -m lrt_jax.main --config=configs/scenes.py:sft

Presets: `sft` teaches fresh weights of the tiny model to describe and compare two scenes, from
traces with slips in them; its export is the model that ships.
"""

from lrt_jax.config.presets import preset_config


def get_config(preset: str = "sft"):
    return preset_config(preset, of=("sft",))
