"""What the fields of a config may say, by name.

Nothing is imported here, so that a config is checked before anything large is loaded; what does
the work of a name takes the names from here.
"""

ALGORITHMS = ("listener_grpo", "grpo", "sft")
PRESETS = ("auto", "tiny", "3b", "7b", "sft")
DTYPES = ("float32", "bfloat16")
REMAT = ("full", "dots", "none")  # what a layer computes anew in its backward pass
LISTENER_STYLES = ("judge", "continue")
STYLES = ("reason", *LISTENER_STYLES)  # of prompts
TARGETS = ("hard", "votes")
ON_BAD_EXAMPLE = ("error", "skip")
NEAR_DUPLICATES = ("merge", "keep")
ON_LONG_CAPTION = ("error", "skip")
PAIR_WEIGHTS = ("equal", "margin")
ADVANTAGE_SCALES = ("group", "none")
LOSS_TYPES = ("grpo", "bnpo", "dr_grpo", "dapo", "cispo")
IMPORTANCE_LEVELS = ("token", "sequence")
OPTIMIZERS = ("adamw", "muon")
SCHEDULES = ("constant", "cosine", "linear")
ALL_SPLITS = "all"  # where a split is named: every split together
