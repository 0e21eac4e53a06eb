"""Human Preference Dataset v2 (arXiv 2306.09341): captions with four to ten ranked images.

    lrt train --config=hpdv2:tiny --config.data.path=FOLDER --workdir=DIR

FOLDER holds `train.json` and the images, as published; `test.json` beside it is never trained on
(`lrt evaluate --split=test` is for it). Presets: `tiny` runs the
built-in model on any machine, `3b` and `7b` the real thing on TPUs; `auto`, the default, chooses.
"""

from lrt_jax.config.presets import preset_config


def get_config(preset: str = "auto"):
    config = preset_config(preset)
    config.data.source = "hpdv2"
    # Of what is published for training; the test split stays whole, and no training data. What is
    # split is split by caption, so that no caption is met again in the evaluation.
    config.data.split_fractions = {"train": 0.95, "validation": 0.05}
    return config
