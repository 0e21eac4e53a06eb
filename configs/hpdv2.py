"""Human Preference Dataset v2 (arXiv 2306.09341): captions with four to ten ranked images.

    python -m lrt_jax.main --config=configs/hpdv2.py:tiny --config.data.path=FOLDER --workdir=DIR

FOLDER holds `train.json` or `test.json` and the images, as published. Presets: `tiny` runs the
built-in model on any machine, `3b` and `7b` the real thing on TPUs; `auto`, the default, chooses.
"""

from lrt_jax.presets import preset_config


def get_config(preset: str = "auto"):
    config = preset_config(preset)
    config.data.source = "hpdv2"
    # The published test split is ranked by ten people and is no training data; what is trained on
    # is split by caption, so that no caption is met again in the evaluation.
    config.data.split_fractions = {"train": 0.7, "validation": 0.15, "test": 0.15}
    return config
