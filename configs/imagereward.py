"""ImageRewardDB (arXiv 2304.05977): captions with four to nine images ranked by an expert.

    lrt train --config=imagereward

Presets: `tiny` trains the built-in model on any machine, on scenes drawn in ImageRewardDB's layout;
`3b` and `7b` are the real thing on TPUs, and need `--config.data.path=FOLDER`, the data set as
published; `auto`, the default, takes `7b` where there is a TPU and else `tiny`. The built-in model
takes the real data set too: --config.data.source=imagereward --config.data.path=FOLDER.
"""

from lrt_jax.config.presets import preset_config


def get_config(preset: str = "auto"):
    config = preset_config(preset)
    config.data.source = "imagereward" if preset in ("3b", "7b") else "scenes"
    return config
