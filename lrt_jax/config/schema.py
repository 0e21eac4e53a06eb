"""Every field of a config: its name, its type, its default, and what it says.

A field that is None has no value, and its comment says what is done then.
"""

import dataclasses
import re
import types
import typing
from collections.abc import Mapping
from typing import Any

import ml_collections

from lrt_jax.config import choices
from lrt_jax.config.scenes import ScenesOptions


@dataclasses.dataclass(frozen=True)
class ModelOptions:
    """The policy, which is trained, and in which numbers all models are computed.

    Attributes:
      path: HF folder, workdir of a run, Hub id, or `tiny` for the built-in model.
      from_scratch: take sizes and tokenizer of it, and draw new weights by the seed.
      dtype: of activations, of sampling and of frozen models.
      param_dtype: of the trained parameters: float32, for no other keeps small updates.
      remat: what a layer computes anew in its backward pass in place of keeping it: `full` is all,
        which takes least memory, `dots` all but matrix products, `none` nothing, which is fastest.
      attention: kernels: `splash` for TPUs, `cudnn` for NVIDIA GPUs in bfloat16, `xla` for any
        device; `auto` takes those that are made for the devices.
      freeze: regular expressions; parameters whose `/`-joined path one of them matches from its
        start are not trained.
    """

    path: str = "tiny"
    from_scratch: bool = False
    dtype: choices.Dtype = "float32"
    param_dtype: str = "float32"
    remat: choices.Remat = "full"
    attention: choices.AttentionKernels = "auto"
    freeze: tuple[str, ...] = ("vision",)


@dataclasses.dataclass(frozen=True)
class ListenerSpec:
    """A frozen model that reads a completion's trace and says which image it would then choose.

    Attributes:
      path: as `model.path`; None for the policy's starting point.
      style: `judge`: it has an instruction of its own, and weighs the trace as another judge's;
        `continue`: it takes the trace for its own thought.
      share: weight in the mean over all listeners, not below 0.
      drop_verdicts: cut sentences of the trace that name a winner.
    """

    path: str | None = None
    style: choices.ListenerStyle = "judge"
    share: float = 1.0
    drop_verdicts: bool = False


@dataclasses.dataclass(frozen=True)
class ListenerOptions(ListenerSpec):
    """The first listener, and what all of them are for.

    Attributes:
      weight: of the reward term that they make; 0 loads no listener.
      others: further listeners, as dicts of the fields of `ListenerSpec`.
    """

    weight: float = 0.5
    others: tuple[ListenerSpec, ...] = ()


@dataclasses.dataclass(frozen=True)
class DataSetOptions:
    """One data set.

    Attributes:
      source: a name in `data/sources`, or package.module:SOURCE of your own.
      path: raw folder, data set of the Hub or folder in a bucket, which are prepared into WORKDIR;
        or a prepared set. None for scenes, which are drawn; others need one.
      share: of the pairs that are trained on, relative to the other sets'; 0: evaluated only.
    """

    source: str = "hpdv2"
    path: str | None = None
    share: float = 1.0


@dataclasses.dataclass(frozen=True)
class DataOptions(DataSetOptions):
    """The first data set, and how all of them are prepared and read.

    Attributes:
      others: further sets, as dicts of the fields of `DataSetOptions`.
      on_bad_example: `error` stops at records and images that cannot be used; `skip` leaves them
        out and counts them.
      near_duplicates: `merge` takes pictures and captions that are nearly the same for one, see
        `prepare`; `keep` asks for equal ones.
      criterion: which judgements to take of a source that has several kinds: `overall`,
        `alignment`, `coherence` or `style`; None where it has one.
      test_sets: prepared sets whose test splits training data are kept away from.
      on_long_caption: `error` stops at captions that do not fit their bucket; `skip` leaves their
        pairs out and counts them.
      split_fractions: share of the prompt clusters of each split, adding up to 1; empty keeps the
        source's own splits.
      train_split: that is trained on, which shares no pair with `eval.split`; None in evaluations,
        which train on nothing.
      target: of an answer's accuracy: `hard`, the majority; `votes`, the smoothed share of votes.
      pair_weights: how much a pair counts in training: `equal`; or `margin`, by |2 p - 1| of the
        smoothed share p of votes.
      max_patches: patches of one image, padding included; None takes the smallest tier that holds
        the data's largest.
      one_grid: bring both images of a pair to one size, so that native size tells nothing.
      prompt_tokens: tokens of every prompt of the reasoner, with its images and padding; None
        measures the longest of the data.
      judge_tokens: tokens of every prompt of a `judge` up to the trace, likewise.
      threads: that decode and encode pairs ahead of the steps, in each process that does so.
      workers: processes that do so beside the training process; 0: it does so itself.
      demonstrations: what `sft` imitates: a file, see `data/input/demonstrations.py`; `answers`
        for the bare answers; None for the traces that come with scenes.
      scenes: what to draw where `source` is scenes, without a path.
    """

    others: tuple[DataSetOptions, ...] = ()
    on_bad_example: choices.OnBadInput = "error"
    near_duplicates: choices.NearDuplicates = "merge"
    criterion: str | None = None
    test_sets: tuple[str, ...] = ()
    on_long_caption: choices.OnBadInput = "error"
    split_fractions: Mapping[str, float] = dataclasses.field(default_factory=dict)
    train_split: str | None = "train"
    target: choices.Target = "hard"
    pair_weights: choices.PairWeights = "equal"
    max_patches: int | None = 1024
    one_grid: bool = True
    prompt_tokens: int | None = 1024
    judge_tokens: int | None = 1024
    threads: int = 8
    workers: int = 0
    demonstrations: str | None = None
    scenes: ScenesOptions = ScenesOptions()


@dataclasses.dataclass(frozen=True)
class PromptOptions:
    """What is said to the models; None for the project's own words, see `data/input/prompts.py`.

    A text may hold `{criterion}`, and nothing else in braces: there stands what people judged the
    pair by, such as `overall`.

    Attributes:
      question: asked of the reasoner and of listeners, after images and caption.
      instruction: what the reasoner is told to do, after the question. Whatever it says, replies
        are read as `<think>..</think><answer>1|2</answer>`.
      judge_before: what stands between the question and the trace that a `judge` weighs; ends in a
        line end.
      judge_after: what stands after that trace, for a reply of one digit, 1 or 2. It is the same
        for all pairs, so that it may not hold `{criterion}`.
    """

    question: str | None = None
    instruction: str | None = None
    judge_before: str | None = None
    judge_after: str | None = None


@dataclasses.dataclass(frozen=True)
class RewardOptions:
    """Weights of the reward's terms but the listener's, and what advantages are made of it.

    Attributes:
      format: of having the form `<think>..</think><answer>1|2</answer>`.
      accuracy: of the answer that people gave, see `data.target`.
      weights: of further terms, not below 0, by their names in `rl/rewards.py`; or
        package/module:function of your own.
      advantage_scale: `group` divides a reward's distance from its group's mean by the group's
        standard deviation; `none` does not (Dr.GRPO, arXiv 2503.20783).
    """

    format: float = 1.0
    accuracy: float = 0.5
    weights: Mapping[str, float] = dataclasses.field(default_factory=dict)
    advantage_scale: choices.AdvantageScale = "group"


@dataclasses.dataclass(frozen=True)
class LossConfig:
    """Which loss of the GRPO family, see `rl/losses.py`, and how it is taken.

    Attributes:
      type: how the importance ratio is limited and what the sum over tokens is divided by.
      beta: weight of the KL term from the starting point; 0 runs no reference pass.
      epsilon: the importance ratio is clipped from below at `1 - epsilon`.
      epsilon_high: and from above at `1 + epsilon_high`; None for `epsilon`. For cispo it is the
        largest ratio itself (5.0 is usual), and must be given.
      delta: upper bound of the unclipped ratio (two-sided clipping); None for no bound.
      importance_sampling_level: one importance ratio for each `token`; or for each `sequence`, the
        exponential of its mean log-ratio (GSPO).
      num_iterations: updates for each rollout.
      microbatches: passes over parts of a batch that add up to one gradient; frozen models take
        the batch in as many parts.
      importance_sampling_cap: largest ratio of trainer's and sampler's probability by which a
        token is weighted (truncated importance sampling); None weights no token.
    """

    type: choices.LossType = "grpo"
    beta: float = 0.0
    epsilon: float = 0.2
    epsilon_high: float | None = None
    delta: float | None = None
    importance_sampling_level: choices.ImportanceSamplingLevel = "token"
    num_iterations: int = 1
    microbatches: int = 1
    importance_sampling_cap: float | None = None


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
      weight_decay: decoupled, by which a parameter shrinks per unit of the rate.
      b1: decay of the first moment, AdamW's; Muon's own momentum is 0.95, its authors' value.
      b2: decay of the second moment, AdamW's.
      mu_dtype: of the first moment, AdamW's and Muon's: `bfloat16` halves its memory; None for the
        parameters' own. The second moment always has the parameters' dtype.
      eps: added to the root of the second moment.
      clip_norm: largest global norm of a gradient; None does not clip.
    """

    name: choices.OptimizerName = "adamw"
    learning_rate: float = 1e-6
    schedule: choices.Schedule = "constant"
    warmup_steps: int = 0
    weight_decay: float = 0.0
    b1: float = 0.9
    b2: float = 0.999
    mu_dtype: choices.Dtype | None = None
    eps: float = 1e-8
    clip_norm: float | None = 1.0


@dataclasses.dataclass(frozen=True)
class MeshOptions:
    """How many devices each axis of the mesh has; all of them share the rows of a batch.

    Attributes:
      data: groups of devices, each of which holds all parameters; alone reaches from one TPU slice
        to the next.
      fsdp: devices of such a group that each keep a share of the parameters (FSDP); -1 for those
        that the other axes leave.
      tensor: devices that divide the matrices of each layer, such as attention heads.
      attn_dp: groups of `tensor` devices that divide the MLP and the head between them too while
        completions are sampled, but the rows in attention, whose heads are too few; in training
        it counts to `fsdp`.
    """

    data: int = 1
    fsdp: int = -1
    tensor: int = 1
    attn_dp: int = 1


@dataclasses.dataclass(frozen=True)
class EvalOptions:
    """What is evaluated, and when.

    Attributes:
      every: steps between evaluations on the way; 0: before and after only.
      pairs: of the split, drawn by the seed; 0 for all.
      split: that is evaluated, or `all` of them.
      others: further splits, each evaluated before and after training on as many pairs, and never
        trained on. Where no data set is scenes, those that a preset names are left out, as other
        data do not have them; one that is named by hand must be there.
      batch_size: rows; a pair has two, one for each order.
      listener: ask the listeners in evaluations also where they are no part of the reward.
      held_out_listener: model, as `model.path`, that evaluations of `split` ask too, in the style
        of the first listener. It only measures: it is neither reward nor reference. One that the
        run listens to or starts from anyway is not asked again. None for none.
    """

    every: int = 0
    pairs: int = 512
    split: str = "validation"
    others: tuple[str, ...] = ()
    batch_size: int = 16
    listener: bool = False
    held_out_listener: str | None = None


@dataclasses.dataclass(frozen=True)
class SamplingOptions:
    """How completions are sampled, but for `temperature` and `top_p`.

    Attributes:
      weights: of the copy of the policy that is sampled from: `full`, in `model.dtype`; or `int8`,
        for which the matrices of the decoder's layers are rounded: half as many bytes as bfloat16
        to read for every token, which is then drawn from probabilities that differ a little from
        the trainer's. Training needs `loss.importance_sampling_cap` for that. Evaluations of a run
        measure the model that it exports, and sample with `full` weights whatever is said here;
        the command `evaluate` does as its config says. See docs/sampling.md.
    """

    weights: choices.SamplingWeights = "full"


CRITERION = "{criterion}"  # in a prompt: what people judged the pair by


@dataclasses.dataclass(frozen=True)
class Config:
    """A run, resolved.

    Attributes:
      algorithm: `listener_grpo`; `grpo`, without a listener; `sft`, on given completions; or
        package.module:Class of your own.
      preset: name of the values that the config file began with, see `presets.py`.
      steps: of training, each a batch of new pairs.
      seed: of order, swaps, sampling and new weights.
      batch_size: pairs a step, over all processes.
      group_size: completions of a pair, sampled or given.
      max_completion_length: tokens of a completion at most.
      temperature: by which the logits are divided when tokens are sampled.
      top_p: tokens are sampled among the likeliest whose probabilities add up to it (nucleus
        sampling); 1 for all.
      checkpoint_every: steps between checkpoints; 0: at the end only.
      keep_checkpoints: the last ones, and the best; earlier ones are removed.
      completions_every: steps between samples kept as parquet; 0: none.
      profile: FIRST:LAST, steps that are traced into WORKDIR/profile; None for none.
      model: the policy.
      listener: who listens to it.
      data: what it is trained on and evaluated with.
      prompts: what is said to the models.
      rewards: of a completion.
      sampling: of completions.
      loss: of a batch.
      optimizer: of the trained parameters.
      mesh: of the devices.
      eval: evaluations before, during and after training.
    """

    algorithm: str = "listener_grpo"
    preset: choices.Preset = "tiny"
    steps: int = 100
    seed: int = 0
    batch_size: int = 16
    group_size: int = 8
    max_completion_length: int = 256
    temperature: float = 1.0
    top_p: float = 1.0
    checkpoint_every: int = 50
    keep_checkpoints: int = 2
    completions_every: int = 10
    profile: str | None = None
    model: ModelOptions = ModelOptions()
    listener: ListenerOptions = ListenerOptions()
    data: DataOptions = dataclasses.field(default_factory=DataOptions)
    prompts: PromptOptions = PromptOptions()
    rewards: RewardOptions = dataclasses.field(default_factory=RewardOptions)
    sampling: SamplingOptions = SamplingOptions()
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
        return choices.ALGORITHMS.get(self.algorithm, True) and self.listener.weight != 0

    @property
    def drops_ties(self) -> bool:
        """Whether pairs with equal votes are no training data: a hard label says nothing there."""
        return self.data.target == "hard"

    @property
    def listeners(self) -> tuple[ListenerSpec, ...]:
        """The listener and the others."""
        return (self.listener, *self.listener.others)

    @property
    def asked_listeners(self) -> tuple[ListenerSpec, ...]:
        """The listeners that training or evaluations ask, but for the held-out one."""
        return self.listeners if self.uses_listener or self.eval.listener else ()

    @property
    def held_out(self) -> ListenerSpec | None:
        """How the held-out listener is asked, where one is named: as the first listener is."""
        if self.eval.held_out_listener is None:
            return None
        first = self.listener
        return ListenerSpec(
            self.eval.held_out_listener, first.style, drop_verdicts=first.drop_verdicts
        )

    @property
    def evaluating_listeners(self) -> tuple[ListenerSpec, ...]:
        """The listeners that evaluations ask, the held-out one last."""
        return (*self.asked_listeners, *([self.held_out] if self.held_out else []))

    @property
    def evaluated_splits(self) -> tuple[str, ...]:
        """The split that is evaluated, and after it the others; each once."""
        return tuple(dict.fromkeys((self.eval.split, *self.eval.others)))

    @property
    def data_sets(self) -> tuple[DataSetOptions, ...]:
        """The data set and the others."""
        return (self.data, *self.data.others)

    @property
    def reward_weights(self) -> dict[str, float]:
        """Weights of the reward's terms."""
        weights = {"format": self.rewards.format, "accuracy": self.rewards.accuracy}
        weights |= self.rewards.weights
        return weights | ({"listener": self.listener.weight} if self.uses_listener else {})


def steps_of(text: str | None) -> range:
    """The steps that `FIRST:LAST` names, both included; none for None.

    Raises:
      ValueError: it names none.
    """
    if text is None:
        return range(0)
    match = re.fullmatch(r"(\d+):(\d+)", text)
    if not match or not 0 < int(match[1]) <= int(match[2]):
        raise ValueError(f"{text!r} is no FIRST:LAST, two numbers of steps such as 3:5")
    return range(int(match[1]), int(match[2]) + 1)


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Every value by its dotted name; an empty mapping is one."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        inside = isinstance(value, Mapping | ml_collections.ConfigDict) and len(value)
        found |= flat(value, f"{prefix}{name}.") if inside else {f"{prefix}{name}": value}
    return found


def without_none(kind: Any) -> Any:
    """The type of a field where it has a value; None where it always has one."""
    kinds = [x for x in typing.get_args(kind) if x is not types.NoneType]
    optional = typing.get_origin(kind) in (types.UnionType, typing.Union)
    return kinds[0] if optional else None


def default_config() -> ml_collections.ConfigDict:
    """Every field at its default; unknown fields are errors when it is parsed.

    Fields that may be None keep their type, so that flags can set them.
    """
    return ml_collections.ConfigDict(_typed(Config()), convert_dict=True)


def _typed(part: Any) -> dict[str, Any]:
    """The fields of a part, nested; those that may be None as references with a type."""
    kinds = {name: without_none(kind) for name, kind in typing.get_type_hints(type(part)).items()}
    values = {name: getattr(part, name) for name in kinds}
    return {name: _typed_value(value, kinds[name]) for name, value in values.items()}


def _typed_value(value: Any, kind: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return _typed(value)
    if kind is None:
        return dict(value) if isinstance(value, Mapping) else value
    words = typing.get_origin(kind) is typing.Literal
    return ml_collections.FieldReference(value, field_type=str if words else kind)
