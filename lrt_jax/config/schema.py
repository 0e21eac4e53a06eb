"""Every field of a config: its name, its type, its default, and what it says."""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import ml_collections

from lrt_jax.config import choices
from lrt_jax.config.scenes import ScenesOptions


@dataclasses.dataclass(frozen=True)
class ModelOptions:
    path: str = "tiny"  # HF folder, Hub id, or `tiny` for the built-in model
    from_scratch: bool = False  # take sizes and tokenizer of it, and draw new weights by the seed
    dtype: choices.Dtype = "float32"  # of activations, of sampling and of frozen models
    param_dtype: str = "float32"  # of the trained parameters; no other keeps small updates
    remat: choices.Remat = "full"  # what a layer keeps for its backward pass
    freeze: tuple[str, ...] = ("vision",)  # patterns of parameter paths


@dataclasses.dataclass(frozen=True)
class ListenerSpec:
    path: str = ""  # as model.path; empty for the policy's starting point
    # `judge`: own instruction; `continue`: the trace as its own thought
    style: choices.ListenerStyle = "judge"
    share: float = 1.0  # in the mean over all listeners
    drop_verdicts: bool = False  # cut sentences of the trace that name a winner


@dataclasses.dataclass(frozen=True)
class ListenerOptions(ListenerSpec):
    weight: float = 0.5  # of the reward term; 0 loads no listener
    others: tuple[ListenerSpec, ...] = ()  # further listeners, as dicts of the fields above


@dataclasses.dataclass(frozen=True)
class DataPart:
    source: str = "hpdv2"  # a name in `data/sources`, or package.module:SOURCE of your own
    # Raw folder, data set of the Hub or folder in a bucket, which are prepared into WORKDIR; or a
    # prepared set. Scenes need none.
    path: str = ""
    share: float = 1.0  # of the pairs that are trained on; 0: evaluated only


@dataclasses.dataclass(frozen=True)
class DataOptions(DataPart):
    others: tuple[DataPart, ...] = ()  # further sets, as dicts of the fields above
    on_bad_example: choices.OnBadInput = "error"  # or `skip`, counted
    # Of pictures and captions, see `prepare`; or `keep`
    near_duplicates: choices.NearDuplicates = "merge"
    criterion: str = ""  # of judgements by several: overall, alignment, coherence or style
    test_sets: tuple[str, ...] = ()  # prepared sets that training data are kept away from
    # Of one that does not fit its bucket: or `skip` its pairs, counted
    on_long_caption: choices.OnBadInput = "error"
    # Share of prompt clusters of each split; empty keeps the source's own splits.
    split_fractions: Mapping[str, float] = dataclasses.field(default_factory=dict)
    train_split: str = "train"  # shares no pair with eval.split
    target: choices.Target = "hard"  # `hard`: the majority; `votes`: the smoothed share of votes
    # Or `margin`: by |2 p - 1| of the smoothed share p of votes
    pair_weights: choices.PairWeights = "equal"
    max_patches: int = 1024  # of one image; 0: the smallest tier that holds the data's largest
    one_grid: bool = True  # for both images of a pair, so that native size tells nothing
    # Tokens of every prompt, padding included: the reasoner's with its images, and a `judge`'s up
    # to the trace; 0 measures the longest of the data.
    prompt_tokens: int = 1024
    judge_tokens: int = 1024
    threads: int = 8
    workers: int = 0
    # What `sft` imitates: a file, see `data/input/demonstrations.py`; `answers` for the bare
    # answers; empty for the traces that come with scenes.
    demonstrations: str = ""
    scenes: ScenesOptions = ScenesOptions()  # what to draw where source is scenes, without a path


@dataclasses.dataclass(frozen=True)
class RewardOptions:
    format: float = 1.0
    accuracy: float = 0.5
    # Of further terms, not below 0, by their names in `rl/rewards.py`; or package/module:function
    # of your own.
    weights: Mapping[str, float] = dataclasses.field(default_factory=dict)
    # Divide by the group's std, or `none` (Dr.GRPO)
    advantage_scale: choices.AdvantageScale = "group"


@dataclasses.dataclass(frozen=True)
class LossConfig:
    type: choices.LossType = "grpo"
    beta: float = 0.0  # weight of the KL term; 0 runs no reference pass
    epsilon: float = 0.2
    epsilon_high: float = 0.0  # 0: as epsilon; the cap itself for cispo
    delta: float = 0.0  # 0: no upper bound of the unclipped ratio
    importance_sampling_level: choices.ImportanceSamplingLevel = "token"
    num_iterations: int = 1  # updates for each rollout
    microbatches: int = 1
    importance_sampling_cap: float = 0.0  # truncated importance sampling; 0: off


@dataclasses.dataclass(frozen=True)
class OptimizerOptions:
    """AdamW (arXiv 1711.05101), or Muon (https://kellerjordan.github.io/posts/muon).

    Attributes:
      name: `adamw`; or `muon`, which makes the update of every matrix orthogonal, scaled to a root
        mean square of `learning_rate` (arXiv 2502.16982, 2.2), and leaves embeddings, biases and
        norms to AdamW with Nesterov momentum, undecayed. From fresh weights it learns several times
        as fast.
      learning_rate: at its peak.
      schedule: from the end of the warm-up to the last update: `constant`, or to zero.
      warmup_steps: updates over which the rate rises linearly from zero.
      weight_decay: decoupled.
      b1: decay of the first moment, AdamW's; Muon's own momentum is 0.95, its authors' value.
      b2: decay of the second moment, AdamW's.
      mu_dtype: of the first moment, AdamW's and Muon's: `bfloat16` halves its memory; empty for the
        parameters' own. The second moment always has the parameters' dtype.
      eps: added to the root of the second moment.
      clip_norm: largest global norm of a gradient; 0 does not clip.
    """

    name: choices.OptimizerName = "adamw"
    learning_rate: float = 1e-6
    schedule: choices.Schedule = "constant"
    warmup_steps: int = 0
    weight_decay: float = 0.0
    b1: float = 0.9
    b2: float = 0.999
    mu_dtype: str = ""
    eps: float = 1e-8
    clip_norm: float = 1.0


@dataclasses.dataclass(frozen=True)
class MeshOptions:
    data: int = 1
    fsdp: int = -1  # the devices that the other axes leave
    tensor: int = 1


@dataclasses.dataclass(frozen=True)
class EvalOptions:
    every: int = 0  # steps between evaluations on the way; 0: before and after only
    pairs: int = 512  # of the split, 0 for all
    split: str = "validation"
    batch_size: int = 16  # rows; a pair has two, one for each order
    listener: bool = False  # ask it in evaluations also where it is no part of the reward


WITHOUT_LISTENER = ("grpo", "sft")  # algorithms


@dataclasses.dataclass(frozen=True)
class Config:
    """A run, resolved."""

    algorithm: str = "listener_grpo"  # grpo, sft on given completions, or package.module:Class
    preset: choices.Preset = "tiny"
    steps: int = 100
    seed: int = 0
    batch_size: int = 16  # pairs a step, over all processes
    group_size: int = 8  # completions of a pair, sampled or given
    max_completion_length: int = 256  # tokens
    temperature: float = 1.0
    top_p: float = 1.0
    checkpoint_every: int = 50  # steps; 0: at the end only
    keep_checkpoints: int = 2
    completions_every: int = 10  # steps between samples kept as parquet; 0: none
    profile: str = ""  # FIRST:LAST, steps that are traced into WORKDIR/profile; empty: none
    model: ModelOptions = ModelOptions()
    listener: ListenerOptions = ListenerOptions()
    data: DataOptions = dataclasses.field(default_factory=DataOptions)
    rewards: RewardOptions = dataclasses.field(default_factory=RewardOptions)
    loss: LossConfig = LossConfig()
    optimizer: OptimizerOptions = OptimizerOptions()
    mesh: MeshOptions = MeshOptions()
    eval: EvalOptions = EvalOptions()

    def to_dict(self) -> dict[str, Any]:
        """Nested plain values, for JSON."""
        return dataclasses.asdict(self)

    @property
    def uses_listener(self) -> bool:
        """Weight 0 is naive GRPO: no listener is loaded."""
        return self.algorithm not in WITHOUT_LISTENER and self.listener.weight != 0

    @property
    def drops_ties(self) -> bool:
        """Whether pairs with equal votes are no training data: a hard label says nothing there."""
        return self.data.target == "hard"

    @property
    def listeners(self) -> tuple[ListenerSpec, ...]:
        """The listener and the others."""
        return (self.listener, *self.listener.others)

    @property
    def data_parts(self) -> tuple[DataPart, ...]:
        """The data set and the others."""
        return (self.data, *self.data.others)

    @property
    def reward_weights(self) -> dict[str, float]:
        """Weights of the reward's terms."""
        weights = {"format": self.rewards.format, "accuracy": self.rewards.accuracy}
        weights |= self.rewards.weights
        return weights | ({"listener": self.listener.weight} if self.uses_listener else {})


def steps_of(text: str) -> range:
    """The steps that `FIRST:LAST` names, both included; none for an empty text.

    Raises:
      ValueError: it names none.
    """
    if not text:
        return range(0)
    match = re.fullmatch(r"(\d+):(\d+)", text)
    if not match or not 0 < int(match[1]) <= int(match[2]):
        raise ValueError(f"{text!r} is no FIRST:LAST, two numbers of steps such as 3:5")
    return range(int(match[1]), int(match[2]) + 1)


def default_config() -> ml_collections.ConfigDict:
    """Every field at its default; unknown fields cannot be added."""
    return ml_collections.ConfigDict(dataclasses.asdict(Config()), convert_dict=True)
