"""ImageRewardDB (arXiv 2304.05977): captions with four to nine images ranked by an expert.

    python -m lrt_jax.main --config=configs/imagereward.py --config.data.path=FOLDER --workdir=DIR

FOLDER holds the metadata and the images, as published. Presets: `tiny` runs the built-in model on
any machine, `3b` and `7b` the real thing on TPUs; `auto`, the default, chooses.
"""

from lrt_jax.presets import preset_config


def get_config(preset: str = "auto"):
    config = preset_config(preset)
    config.data.source = "imagereward"
    return config
