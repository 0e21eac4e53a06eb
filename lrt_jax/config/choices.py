"""What the fields of a config may say where that is a fixed set of words, as types.

The reader of a config refuses any other word. Nothing large is imported here, so that a config is
checked before anything large is loaded; what does the work of a word takes the words from here,
with `typing.get_args`.
"""

from typing import Literal

# Whether each asks listeners. Or package.module:Class, so that it is no type.
ALGORITHMS = {"listener_grpo": True, "grpo": False, "sft": False}
ALL_SPLITS = "all"  # where a split is named: every split together

Preset = Literal["auto", "tiny", "3b", "7b", "sft", "sft_listener"]
Dtype = Literal["float32", "bfloat16"]
Remat = Literal["full", "dots", "none"]  # what a layer computes anew in its backward pass
AttentionKernels = Literal["auto", "xla", "splash", "cudnn"]
ListenerStyle = Literal["judge", "continue"]
Style = Literal["reason", "judge", "continue"]  # of prompts
Target = Literal["hard", "votes"]
OnBadInput = Literal["error", "skip"]
NearDuplicates = Literal["merge", "keep"]
PairWeights = Literal["equal", "margin"]
AdvantageScale = Literal["group", "none"]
SamplingWeights = Literal["full", "int8"]  # of the copy that completions are sampled from
LossType = Literal["grpo", "bnpo", "dr_grpo", "dapo", "cispo"]
ImportanceSamplingLevel = Literal["token", "sequence"]
OptimizerName = Literal["adamw", "muon"]
Schedule = Literal["constant", "cosine", "linear"]
