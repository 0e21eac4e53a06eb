"""The schema of a config: every field, its default, its type, and what must hold between fields.

A config file returns `default_config()` with changes; `Config.parse` turns the result, with the
overrides of the command line, into frozen dataclasses, and tells all problems at once before any
device is touched.
"""

import dataclasses
import math
import typing
from collections.abc import Iterator, Mapping
from typing import Any

import ml_collections

from lrt_jax.data.conversation import STYLES
from lrt_jax.data.scenes.options import Corruption, ScenesOptions
from lrt_jax.data.sources import SOURCES
from lrt_jax.models.layers import REMAT_POLICIES
from lrt_jax.rl.advantages import SCALES
from lrt_jax.rl.losses import IMPORTANCE_LEVELS, LOSS_TYPES
from lrt_jax.training.optimizer import OPTIMIZERS, SCHEDULES, OptimizerOptions

ALGORITHMS = ("listener_grpo", "grpo", "sft")
DTYPES = ("float32", "bfloat16")
PRESETS = ("auto", "tiny", "3b", "7b", "sft")


class ConfigError(ValueError):
    """A config that cannot be run; the message lists every problem."""

    def __init__(self, problems: list[str]):
        self.problems = problems
        super().__init__("the config cannot be run:\n" + "\n".join(f"  {p}" for p in problems))


@dataclasses.dataclass(frozen=True)
class ModelOptions:
    path: str = "tiny"  # HF folder, Hub id, or `tiny` for the built-in model
    fresh: bool = False  # take sizes and tokenizer of it, and draw new weights by the seed
    dtype: str = "float32"  # of activations, of sampling and of frozen models
    param_dtype: str = "float32"  # of the trained parameters
    remat: str = "full"  # what a layer keeps for its backward pass
    freeze: tuple[str, ...] = ("vision",)  # patterns of parameter paths


@dataclasses.dataclass(frozen=True)
class Listening:
    path: str = ""  # as model.path; empty for the policy's starting point
    style: str = "judge"  # `judge`: own instruction; `continue`: the trace as its own thought
    share: float = 1.0  # in the mean over all listeners
    drop_verdicts: bool = False  # `judge`: cut sentences of the trace that name a winner


@dataclasses.dataclass(frozen=True)
class ListenerOptions(Listening):
    weight: float = 0.5  # of the reward term; 0 loads no listener
    others: tuple[Listening, ...] = ()  # further listeners, as dicts of the fields above


@dataclasses.dataclass(frozen=True)
class DataOptions:
    source: str = "hpdv2"
    path: str = ""  # raw folder, prepared into WORKDIR/data, or a prepared set; scenes need none
    on_bad_example: str = "error"  # or `skip`, counted
    # Share of prompt clusters of each split; empty keeps the source's own splits.
    split_fractions: Mapping[str, float] = dataclasses.field(default_factory=dict)
    train_split: str = "train"
    target: str = "hard"  # `hard`: the majority; `votes`: the smoothed share of votes
    max_patches: int = 1024  # of one image
    # Tokens of every prompt, padding included: the reasoner's with its images, and a `judge`'s up
    # to the trace; 0 measures the longest of the data.
    prompt_tokens: int = 1024
    judge_tokens: int = 1024
    threads: int = 8
    workers: int = 0
    # What `sft` imitates: a file, see `data/lessons.py`; `answers` for the bare answers; empty for
    # the traces that come with scenes.
    lessons: str = ""
    scenes: ScenesOptions = ScenesOptions()  # what to draw where source is scenes, without a path


@dataclasses.dataclass(frozen=True)
class RewardOptions:
    format: float = 1.0
    accuracy: float = 0.5
    advantage_scale: str = "group"  # divide by the group's std, or `none` (Dr.GRPO)


@dataclasses.dataclass(frozen=True)
class LossConfig:
    type: str = "grpo"
    beta: float = 0.0  # weight of the KL term; 0 runs no reference pass
    epsilon: float = 0.2
    epsilon_high: float = 0.0  # 0: as epsilon; the cap itself for cispo
    delta: float = 0.0  # 0: no upper bound of the unclipped ratio
    level: str = "token"  # importance sampling
    num_iterations: int = 1  # updates for each rollout
    microbatches: int = 1
    sampler_cap: float = 0.0  # truncated importance sampling; 0: off


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


@dataclasses.dataclass(frozen=True)
class Config:
    """A run, resolved."""

    algorithm: str = "listener_grpo"  # grpo, or sft on given completions
    preset: str = "tiny"
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
    model: ModelOptions = ModelOptions()
    listener: ListenerOptions = ListenerOptions()
    data: DataOptions = dataclasses.field(default_factory=DataOptions)
    rewards: RewardOptions = RewardOptions()
    loss: LossConfig = LossConfig()
    optimizer: OptimizerOptions = OptimizerOptions()
    mesh: MeshOptions = MeshOptions()
    eval: EvalOptions = EvalOptions()

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> "Config":
        """Builds a config from nested values.

        Raises:
          ConfigError: unknown fields, wrong types or values, impossible combinations; all of them.
        """
        problems: list[str] = []
        config = _build(cls, _plain(values), "", problems)
        problems += [] if problems else list(_conflicts(config))
        if problems:
            raise ConfigError(problems)
        return config

    def to_dict(self) -> dict[str, Any]:
        """Nested plain values, for JSON."""
        return dataclasses.asdict(self)

    @property
    def uses_listener(self) -> bool:
        """Weight 0 is naive GRPO: no listener is loaded."""
        return self.algorithm == "listener_grpo" and self.listener.weight != 0

    @property
    def listeners(self) -> tuple[Listening, ...]:
        """The listener and the others."""
        return (self.listener, *self.listener.others)

    @property
    def reward_weights(self) -> dict[str, float]:
        """Weights of the reward's terms."""
        weights = {"format": self.rewards.format, "accuracy": self.rewards.accuracy}
        return weights | ({"listener": self.listener.weight} if self.uses_listener else {})


def default_config() -> ml_collections.ConfigDict:
    """Every field at its default; unknown fields cannot be added."""
    return ml_collections.ConfigDict(dataclasses.asdict(Config()), convert_dict=True)


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    return values.to_dict() if isinstance(values, ml_collections.ConfigDict) else dict(values)


def _build(cls, values: Mapping[str, Any], prefix: str, problems: list[str]):
    """Builds a dataclass from plain values, adding to `problems` instead of raising."""
    hints = typing.get_type_hints(cls)
    for name in set(values) - set(hints):
        problems.append(f"{prefix}{name}: no such field; fields here are {', '.join(hints)}")
    built = {}
    for name, value in values.items():
        kind = hints.get(name)
        if kind is None:
            continue
        if dataclasses.is_dataclass(kind) and isinstance(value, Mapping):
            built[name] = _build(kind, value, f"{prefix}{name}.", problems)
        else:
            built[name] = _coerce(kind, value, f"{prefix}{name}", problems)
    return cls(**built)


def _coerce(kind, value, name: str, problems: list[str]):
    """A value as its field wants it; a wrong one is returned as it is, and told."""
    container, inside = typing.get_origin(kind), typing.get_args(kind)
    if container is tuple and isinstance(value, list | tuple):
        return tuple(_element(inside[0], v, f"{name}[{i}]", problems) for i, v in enumerate(value))
    if container is Mapping and isinstance(value, Mapping):
        return {key: _coerce(inside[1], v, f"{name}.{key}", problems) for key, v in value.items()}
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind:
        wanted = getattr(container or kind, "__name__", str(kind))
        problems.append(f"{name}: {value!r} is {type(value).__name__}, expected {wanted}")
    return value


def _element(kind, value, name: str, problems: list[str]):
    if dataclasses.is_dataclass(kind) and isinstance(value, Mapping):
        return _build(kind, value, f"{name}.", problems)
    return _coerce(kind, value, name, problems)


def _conflicts(c: Config) -> Iterator[str]:
    yield from _unknown_names(c)
    yield from _out_of_range(c)
    rows, microbatches = c.batch_size, c.loss.microbatches
    if microbatches > 0 and rows % microbatches:
        yield f"loss.microbatches: {microbatches} does not divide batch_size {rows}"
    if c.group_size == 1 and c.rewards.advantage_scale == "group" and c.algorithm != "sft":
        yield (
            "group_size: 1 has no standard deviation; take 2 or more, or "
            "rewards.advantage_scale=none"
        )
    if c.loss.type == "cispo" and not c.loss.epsilon_high:
        yield "loss.epsilon_high: cispo caps the ratio itself, give the cap (5.0 is usual)"
    if c.eval.batch_size % 2:
        yield f"eval.batch_size: {c.eval.batch_size} is odd; both orders of a pair go together"
    if not c.data.path and c.data.source != "scenes":
        yield "data.path: not set; name the folder of the data set: --config.data.path=FOLDER"
    if c.algorithm != "listener_grpo" and c.listener.others:
        yield f"listener.others: algorithm={c.algorithm} asks no listener"
    if c.algorithm == "sft":
        yield from _sft_conflicts(c)
    elif c.data.lessons or c.model.fresh:
        field = "data.lessons" if c.data.lessons else "model.fresh"
        yield f"{field}: for algorithm=sft only; {c.algorithm} starts from a model that can answer"
    if not sum(listener.share for listener in c.listeners) > 0:
        yield "listener.share: all listeners have none; one at least must be above 0"


def _sft_conflicts(c: Config) -> Iterator[str]:
    if not c.data.lessons and c.data.source != "scenes":
        yield (
            "data.lessons: algorithm=sft needs completions to imitate; name their file, or "
            "data.lessons=answers"
        )
    if not c.data.lessons and not c.data.path and not c.data.scenes.traces:
        yield "data.scenes.traces: 0, so there is nothing for algorithm=sft to imitate; take 1"
    if c.data.lessons == "answers" and c.data.target == "votes":
        yield "data.lessons: answers are of the majority, take data.target=hard with them"
    if c.model.fresh and c.model.freeze:
        yield "model.freeze: what is fresh and never trained stays random; take model.freeze=()"
    if c.loss.num_iterations != 1:
        yield f"loss.num_iterations: {c.loss.num_iterations}; algorithm=sft updates once a step"


def _unknown_names(c: Config) -> Iterator[str]:
    styles = [style for style in STYLES if style != "reason"]
    choices = {
        "algorithm": (c.algorithm, ALGORITHMS),
        "preset": (c.preset, PRESETS),
        "model.dtype": (c.model.dtype, DTYPES),
        "model.param_dtype": (c.model.param_dtype, DTYPES),
        "model.remat": (c.model.remat, tuple(REMAT_POLICIES)),
        **{_listener_field(i, "style"): (x.style, styles) for i, x in enumerate(c.listeners)},
        "data.source": (c.data.source, tuple(SOURCES)),
        "data.target": (c.data.target, ("hard", "votes")),
        "data.on_bad_example": (c.data.on_bad_example, ("error", "skip")),
        "rewards.advantage_scale": (c.rewards.advantage_scale, SCALES),
        "loss.type": (c.loss.type, LOSS_TYPES),
        "loss.level": (c.loss.level, IMPORTANCE_LEVELS),
        "optimizer.name": (c.optimizer.name, OPTIMIZERS),
        "optimizer.schedule": (c.optimizer.schedule, SCHEDULES),
    }
    for name, (value, known) in choices.items():
        if value not in known:
            yield f"{name}: {value!r} is not one of {', '.join(known)}"


def _listener_field(index: int, name: str) -> str:
    return f"listener.{name}" if index == 0 else f"listener.others[{index - 1}].{name}"


def _out_of_range(c: Config) -> Iterator[str]:
    numbers = dict(_numbers(c, ""))
    for name, value in numbers.items():
        least = AT_LEAST.get(name, 0)
        if not (math.isfinite(value) and value >= least):
            yield f"{name}: {value} is not a number from {least} on"
    for name, bound in BELOW.items():
        if not numbers[name] < bound:
            yield f"{name}: {numbers[name]} is not below {bound}"
    for name, bound in AT_MOST.items():
        if numbers[name] > bound:
            yield f"{name}: {numbers[name]} captions are more than the {bound:,} that can be drawn"
    for name in AT_MOST_ONE:
        if not numbers[name] <= 1:
            yield f"{name}: {numbers[name]} is a share, and cannot be above 1"
    if not c.temperature > 0:
        yield f"temperature: {c.temperature} must be above 0; evaluation takes greedy samples too"
    if not 0 < c.top_p <= 1:
        yield f"top_p: {c.top_p} must be above 0 and at most 1"
    if c.data.max_patches % 64:
        yield f"data.max_patches: {c.data.max_patches} is not a multiple of 64, one window"


def _numbers(part, prefix: str) -> Iterator[tuple[str, int | float]]:
    """Every number of a config by its dotted name."""
    for field in dataclasses.fields(part):
        value = getattr(part, field.name)
        if dataclasses.is_dataclass(value):
            yield from _numbers(value, f"{prefix}{field.name}.")
        elif type(value) in (int, float):
            yield f"{prefix}{field.name}", value


# Any number is at least 0, but for these.
AT_LEAST = {
    "steps": 1,
    "batch_size": 1,
    "group_size": 1,
    "max_completion_length": 1,
    "keep_checkpoints": 1,
    "eval.batch_size": 2,
    "data.max_patches": 64,
    "data.scenes.train": 1,
    "data.scenes.validation": 1,
    "data.scenes.images": 2,
    "data.scenes.annotators": 1,
    "loss.num_iterations": 1,
    "loss.microbatches": 1,
    "mesh.data": 1,
    "mesh.fsdp": -1,
    "mesh.tensor": 1,
}
BELOW = {"seed": 2**32, "optimizer.b1": 1, "optimizer.b2": 1, "data.scenes.images": 6}
# Four fifths of the captions that there are to draw; a test counts them.
AT_MOST = {"data.scenes.train": 8000, "data.scenes.validation": 2000, "data.scenes.test": 550}
AT_MOST_ONE = tuple(
    f"data.scenes.{name}"
    for name in ("three_objects", *(f"corruption.{f.name}" for f in dataclasses.fields(Corruption)))
)
