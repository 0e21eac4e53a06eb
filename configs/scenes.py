"""Drawn scenes: how the built-in models were made, and what they are tried on.

    lrt train --config=scenes:sft
    lrt train --config=scenes:sft_listener

Presets: `sft` teaches fresh weights of the tiny model to describe and compare two scenes, from
traces with slips in them; `sft_listener` teaches the larger one that may listen to it, from clean
ones. Their exports are the models that ship.
"""

from lrt_jax.config.presets import preset_config


def get_config(preset: str = "sft"):
    return preset_config(preset, of=("sft", "sft_listener"))
