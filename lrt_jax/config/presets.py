"""Sizes of a run by name: the built-in model anywhere, and the real ones on TPUs.

Where the paper (arXiv 2506.22832) leaves a value open, the choice is ours and says why.
"""

from collections.abc import Sequence

import ml_collections

from lrt_jax.config import default_config

# Splits of scenes beside `validation`: attributes in combinations, and objects, that no other has.
SCENE_SPLITS = ("test_combinations", "test_objects")

TINY = {
    # So small a model need not save memory by computing anything twice.
    "model": {"path": "tiny", "remat": "none"},
    # The tiny model knows the reasoner's prompt alone, so its listener continues the trace.
    "listener": {"style": "continue"},
    "data": {
        "max_patches": 64,
        "prompt_tokens": None,
        "judge_tokens": None,
        "scenes": {"seed": 1},  # not what the model was taught on
    },
    "batch_size": 16,
    "group_size": 8,
    "max_completion_length": 72,  # traces about two objects have 56 tokens at most, about three 70
    "steps": 160,
    # A KL term needs no pass of its own here: the listener's gives the reference's log-probs too.
    "loss": {"beta": 0.02},
    "optimizer": {"learning_rate": 1e-3, "schedule": "linear", "warmup_steps": 5},
    "checkpoint_every": 40,
    "completions_every": 40,
    "eval": {
        "pairs": 512,
        "others": SCENE_SPLITS,
        "batch_size": 128,
        # Another model than the one that is rewarded for convincing.
        "held_out_listener": "tiny_listener",
    },
}

# What both built-in models are taught by.
SCENES_SFT = {
    "algorithm": "sft",
    "model": {"from_scratch": True, "freeze": (), "remat": "none"},
    "listener": {"style": "continue"},
    "data": {
        "source": "scenes",
        "max_patches": 64,
        "prompt_tokens": None,
        "judge_tokens": None,
        "scenes": {"traces": 1},
    },
    "batch_size": 16,
    "loss": {"microbatches": 4},  # faster on a CPU, whose caches they fit
    "group_size": 1,
    "max_completion_length": 72,
    "optimizer": {
        "name": "muon",
        "learning_rate": 2e-3,
        "warmup_steps": 100,
        "schedule": "cosine",
        "weight_decay": 0.01,
        "b2": 0.98,
    },
    "checkpoint_every": 500,
    "eval": {"pairs": 512, "others": SCENE_SPLITS, "batch_size": 128},
}

# What 3b and 7b share. Of the paper we have its abstract and public reviews of a later version, not
# the full text. They give the listener (Qwen2.5-VL-7B-Instruct, frozen), the weights .5 and .5 of
# accuracy and listener, and the amount of data; the reasoner's family, not its size. All else below
# is our choice.
LARGE = {
    # bfloat16 activations, sampling and frozen models; the trained parameters stay in float32.
    # The vision tower stays frozen, as neighbours keep it: features are then computed once.
    "model": {"dtype": "bfloat16"},
    # The listener reads the trace in its own words, as another judge's: a model that was trained to
    # follow instructions need not take it for its own thought.
    "listener": {"style": "judge"},
    # Group size, learning rate, KL weight and completion length: as public neighbours of the paper
    # train on image preferences (UnifiedReward-Think, GRPO-CARE, R1-Reward). The cap on importance
    # weights makes up for sampling in bfloat16 under float32 training.
    "group_size": 8,
    # The warm-up covers the steps in which Adam's second moments are unknown; a little decay is
    # the habit for fine-tuning. The rate stays constant, so that a run can be made longer.
    "optimizer": {"learning_rate": 1e-6, "warmup_steps": 10, "weight_decay": 0.01},
    "loss": {"beta": 0.04, "importance_sampling_cap": 2.0},
    "max_completion_length": 768,
    # 1,024 patches are 448 x 448 pixels, between the neighbours' 147,456 and 401,408 pixels; two
    # such images are 512 tokens, which leaves 768 to the text.
    "data": {"max_patches": 1024, "prompt_tokens": 1280, "judge_tokens": 1280, "threads": 32},
    # Each device holds a share of weights and pairs; 64 pairs divide over every slice of up to 64
    # devices. As many share attention in sampling as there are key-value heads, and twice as many
    # the MLP and the head, whose weights take most of a token's time.
    "mesh": {"data": 1, "fsdp": -1},
    "batch_size": 64,
    # 102,400 pairs: as many as the paper's 16 % of HPDv2, and fewer than ImageRewardDB has.
    "steps": 1600,
    # Often enough that a machine that is taken away costs little, and that runs can be watched.
    "checkpoint_every": 50,
    "completions_every": 25,
    "eval": {"every": 200, "pairs": 512, "batch_size": 128},
}

# The reasoner, from traces with slips and with a habit, to call most of what falls short the best:
# so it is left with something to learn, and with something to unlearn.
REASONER = {
    "model": {"path": "tiny"},
    "data": {
        "scenes": {
            "train": 6000,
            "corruption": {
                "description": 0.25,
                "quality": 0.05,
                "mark": 0.05,
                "leniency": 0.6,
                "flattery": 0.6,
                "score": 0.1,
                "answer": 0.05,
            },
        },
    },
    "steps": 2500,
}

# The listener, from clean traces about more scenes, and from answers without any.
LISTENER = {
    "model": {"path": "tiny_listener"},
    "data": {
        "scenes": {"seed": 2, "train": 8000, "three_objects": 0.25, "images": 5, "bare": 0.15}
    },
    "steps": 4000,
}

VALUES = {
    "tiny": [TINY],
    "sft": [SCENES_SFT, REASONER],
    "sft_listener": [SCENES_SFT, LISTENER],
    "3b": [
        LARGE,
        {"model": {"path": "Qwen/Qwen2.5-VL-3B-Instruct"}, "mesh": {"tensor": 2, "attn_dp": 2}},
    ],
    "7b": [
        LARGE,
        {"model": {"path": "Qwen/Qwen2.5-VL-7B-Instruct"}, "mesh": {"tensor": 4, "attn_dp": 2}},
    ],
}


def preset_config(
    name: str, of: Sequence[str] = ("auto", "tiny", "3b", "7b")
) -> ml_collections.ConfigDict:
    """The defaults with a preset's values; `auto` is resolved when the devices are known.

    Args:
      name: of the preset.
      of: those that the config file offers.

    Raises:
      ValueError: it is not one of them.
    """
    if name not in of:
        raise ValueError(f"preset {name!r} is not one of {', '.join(of)}")
    config = default_config()
    for values in VALUES.get(name, []):
        config.update(values)
    config.preset = name
    return config


def leave_out_scene_splits(values: ml_collections.ConfigDict) -> None:
    """Takes a preset's further splits out of a config whose data are not scenes.

    Args:
      values: of the config, changed in place. Splits that are others than its preset's stay.
    """
    sources = [values.data.source, *(x.get("source") for x in values.data.others)]
    if "scenes" not in sources and tuple(values.eval.others) == SCENE_SPLITS:
        values.eval.others = ()


AUTO = ("tiny", "7b")  # what `auto` may come to


def resolve_auto(platform: str) -> tuple[str, str]:
    """The preset for a platform of JAX, and why."""
    if platform == "tpu":
        return "7b", "there is a TPU"
    return "tiny", f"there is no TPU, only {platform}"
