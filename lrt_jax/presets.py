"""Sizes of a run by name: the built-in model anywhere, and the real ones on TPUs.

Where the paper (arXiv 2506.22832) leaves a value open, the choice is ours and says why.
"""

import ml_collections

from lrt_jax.config import PRESETS, default_config

TINY = {
    "model": {"path": "tiny"},
    # The tiny model knows the reasoner's prompt alone, so its listener continues the trace.
    "listener": {"style": "continue"},
    "data": {"max_patches": 256, "prompt_tokens": 448, "judge_tokens": 512},
    "batch_size": 8,
    "group_size": 4,
    "max_completion_length": 32,
    "steps": 20,
    # A KL term needs no pass of its own here: the listener's gives the reference's log-probs too.
    "loss": {"beta": 0.02},
    "optimizer": {"learning_rate": 3e-4, "warmup_steps": 2},
    "checkpoint_every": 10,
    "completions_every": 5,
    "eval": {"pairs": 32, "batch_size": 16},
}

# What 3b and 7b share.
LARGE = {
    "model": {"dtype": "bfloat16"},
    # Group size, learning rate, KL weight and completion length: as public neighbours of the paper
    # train on image preferences (UnifiedReward-Think, GRPO-CARE, R1-Reward).
    "group_size": 8,
    "optimizer": {"learning_rate": 1e-6, "warmup_steps": 10, "weight_decay": 0.01},
    "loss": {"beta": 0.04, "sampler_cap": 2.0},
    "max_completion_length": 768,
    # 1,024 patches are 448 x 448 pixels, between the neighbours' 147,456 and 401,408 pixels.
    "data": {"max_patches": 1024, "prompt_tokens": 1280, "judge_tokens": 1280, "threads": 32},
    "batch_size": 64,
    "steps": 1600,  # 102,400 pairs: the 16 % of HPDv2's pairs that the paper trains on
    "checkpoint_every": 50,
    "completions_every": 25,
    "eval": {"every": 200, "pairs": 512, "batch_size": 128},
}

VALUES = {
    "tiny": [TINY],
    "3b": [LARGE, {"model": {"path": "Qwen/Qwen2.5-VL-3B-Instruct"}}],
    "7b": [LARGE, {"model": {"path": "Qwen/Qwen2.5-VL-7B-Instruct"}}],
}


def preset_config(name: str) -> ml_collections.ConfigDict:
    """The defaults with a preset's values; `auto` is resolved when the devices are known.

    Raises:
      ValueError: no such preset.
    """
    if name not in PRESETS:
        raise ValueError(f"preset {name!r} is not one of {', '.join(PRESETS)}")
    config = default_config()
    for values in VALUES.get(name, []):
        config.update(values)
    config.preset = name
    return config


def resolve_auto(platform: str) -> tuple[str, str]:
    """The preset for a platform of JAX, and why."""
    if platform == "tpu":
        return "7b", "there is a TPU"
    return "tiny", f"there is no TPU, only {platform}"
