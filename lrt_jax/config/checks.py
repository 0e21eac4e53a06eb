"""What must hold of a config's values, each by itself and between them.

Every function yields one line for each problem: field, what it says, remedy.
"""

import dataclasses
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from lrt_jax.config import choices
from lrt_jax.config.scenes import Corruption
from lrt_jax.config.schema import CRITERION, Config, flat, steps_of

MERGED = 4  # patches of a Qwen2.5-VL image that become one token

# Any number is at least 0, but for these.
AT_LEAST = {
    "steps": 1,
    "batch_size": 1,
    "group_size": 1,
    "max_completion_length": 1,
    "keep_checkpoints": 1,
    "eval.batch_size": 2,
    "data.threads": 1,
    "data.scenes.train": 1,
    "data.scenes.validation": 1,
    "data.scenes.images": 2,
    "data.scenes.annotators": 1,
    "loss.num_iterations": 1,
    "loss.microbatches": 1,
    "mesh.data": 1,
    "mesh.fsdp": -1,
    "mesh.tensor": 1,
    "mesh.attn_dp": 1,
}
# Whole numbers are below `MANY`, for devices count in 32 bits; others are without bound but these.
MANY = 2**31
BELOW = {
    "seed": 2**32,
    "data.scenes.seed": 2**32,
    "optimizer.b1": 1,
    "optimizer.b2": 1,
    "data.scenes.images": 6,
}
# Four fifths of the captions that there are to draw; a test counts them.
AT_MOST = {"data.scenes.train": 8000, "data.scenes.validation": 2000, "data.scenes.test": 550}
AT_MOST_ONE = tuple(
    f"data.scenes.{name}"
    for name in (
        "three_objects",
        "bare",
        *(f"corruption.{f.name}" for f in dataclasses.fields(Corruption)),
    )
)


def problems_of(c: Config) -> Iterator[str]:
    """Everything that keeps a config from being run, as far as it can be known without devices."""
    if ":" not in c.algorithm and c.algorithm not in choices.ALGORITHMS:  # else somebody's own
        yield f"algorithm: {c.algorithm!r} is not one of {', '.join(choices.ALGORITHMS)}"
    yield from _out_of_range(c)
    yield from _model(c)
    yield from _batch(c)
    yield from _loss(c)
    yield from _data(c)
    yield from _prompts(c)


# ---------------------------------------------------------------------------- single numbers


def _out_of_range(c: Config) -> Iterator[str]:
    numbers = dict(_numbers(c.to_dict()))
    for name, value in numbers.items():
        least = AT_LEAST.get(name, 0)
        bound = BELOW.get(name, MANY if type(value) is int else math.inf)
        if not least <= value < math.inf:
            yield f"{name}: {value} is not a number from {least} on"
        elif not value < bound:
            yield f"{name}: {value} is not below {bound}"
    for name, bound in AT_MOST.items():
        if numbers[name] > bound:
            yield f"{name}: {numbers[name]} captions are more than the {bound:,} that can be drawn"
    for name in AT_MOST_ONE:
        if not numbers[name] <= 1:
            yield f"{name}: {numbers[name]} is a share, and cannot be above 1"
    if not c.temperature > 0:
        yield f"temperature: {c.temperature} must be above 0; evaluation takes greedy samples too"
    if not c.optimizer.eps > 0:
        yield f"optimizer.eps: {c.optimizer.eps} must be above 0; it keeps 0 / 0 out of the update"
    if not 0 < c.top_p <= 1:
        yield f"top_p: {c.top_p} must be above 0 and at most 1"
    if c.data.max_patches is not None and c.data.max_patches % 64:
        yield f"data.max_patches: {c.data.max_patches} is not a multiple of 64, one window"
    try:
        steps_of(c.profile)
    except ValueError as error:
        yield f"profile: {error}"
    if c.mesh.fsdp == 0:
        yield "mesh.fsdp: 0 devices; take -1 for all that the other axes leave"


def _numbers(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, int | float]]:
    """Every number of a config's nested values, by its dotted name."""
    for name, value in flat(values, prefix).items():
        if type(value) in (int, float):
            yield name, value
        for i, part in enumerate(value if isinstance(value, tuple) else ()):
            if isinstance(part, Mapping):
                yield from _numbers(part, f"{name}[{i}].")


# ---------------------------------------------------------------------------- between fields


def _model(c: Config) -> Iterator[str]:
    if c.model.param_dtype != "float32":
        yield (
            f"model.param_dtype: {c.model.param_dtype} parameters would hardly learn, for updates "
            "of the usual size round to nothing; leave float32, for the optimizer's moments too, "
            "and take model.dtype=bfloat16 for activations and sampling in bfloat16"
        )
    for pattern in c.model.freeze:
        try:
            re.compile(pattern)
        except re.error as error:
            yield f"model.freeze: {pattern!r} is no regular expression ({error}); mend the pattern"


def _batch(c: Config) -> Iterator[str]:
    rows, microbatches = c.batch_size, max(c.loss.microbatches, 1)
    if rows % microbatches:
        yield f"loss.microbatches: {microbatches} does not divide batch_size {rows}"
    if c.eval.batch_size % 2:
        yield f"eval.batch_size: {c.eval.batch_size} is odd; both orders of a pair go together"
    devices = c.mesh.data * c.mesh.fsdp * c.mesh.attn_dp * c.mesh.tensor
    if devices > 0:  # else those that there are, and checked when they are known
        yield from rows_problems(c, devices)


def rows_problems(c: Config, devices: int) -> Iterator[str]:
    """What does not divide over a mesh of so many devices."""
    at_once = c.batch_size // max(c.loss.microbatches, 1)
    for name, rows in {"batch_size": at_once, "eval.batch_size": c.eval.batch_size}.items():
        if rows % devices:
            yield (
                f"{name}: {rows} rows at a time do not divide over the mesh of {devices} devices; "
                "take a multiple"
            )


def _loss(c: Config) -> Iterator[str]:
    loss = c.loss
    if loss.type == "cispo" and loss.epsilon_high is None:
        yield "loss.epsilon_high: cispo caps the ratio itself, give the cap (5.0 is usual)"
    high = loss.epsilon if loss.epsilon_high is None else loss.epsilon_high
    if loss.type != "cispo" and loss.delta is not None and 0 < loss.delta <= 1 + high:
        yield (
            f"loss.delta: {loss.delta} is not above 1 + epsilon, so it would undo the clipping; "
            "take more, or None for none"
        )


def _data(c: Config) -> Iterator[str]:
    yield from _data_parts(c)
    yield from _splits(c)
    images = 2 * (c.data.max_patches or 0) // MERGED  # none is known where it is measured
    buckets = {"data.prompt_tokens": c.data.prompt_tokens}
    if any(x.style == "judge" for x in c.evaluating_listeners):
        buckets["data.judge_tokens"] = c.data.judge_tokens
    for name, bucket in buckets.items():
        if bucket is not None and 0 < bucket <= images:
            yield (
                f"{name}: {bucket} leaves no place for words beside two images of "
                f"data.max_patches={c.data.max_patches}, which are {images} tokens; take more, or "
                "None to measure the data"
            )
    fractions = c.data.split_fractions
    if fractions and not math.isclose(sum(fractions.values()), 1.0, abs_tol=1e-6):
        yield f"data.split_fractions: they add up to {sum(fractions.values()):g}, not to 1"


def _splits(c: Config) -> Iterator[str]:
    """Training and evaluation may share no pair; where nothing is trained, no split is named."""
    train = c.data.train_split
    for evaluated in c.evaluated_splits if train else ():
        if train == evaluated or choices.ALL_SPLITS in (train, evaluated):
            field = "eval.split" if evaluated == c.eval.split else "eval.others"
            name = "data.train_split" if train == choices.ALL_SPLITS else field
            yield (
                f"{name}: training on split {train!r} and evaluating on split {evaluated!r} share "
                "pairs, so that figures would tell what was learnt by heart; take two splits, and "
                "cut them with data.split_fractions where there is one"
            )


def _data_parts(c: Config) -> Iterator[str]:
    for i, data_set in enumerate(c.data_sets):
        if not data_set.path and data_set.source != "scenes":
            field = f"data.others[{i - 1}].path" if i else "data.path"
            flag = "" if i else ": --config.data.path=FOLDER"
            yield f"{field}: not set; name the folder of the data set{flag}"
    if sum(data_set.source == "scenes" and not data_set.path for data_set in c.data_sets) > 1:
        yield "data.others: scenes are drawn once; name the folders of further ones"
    if not any(data_set.share > 0 for data_set in c.data_sets):
        yield "data.share: no set has any; one at least must be above 0"


def _prompts(c: Config) -> Iterator[str]:
    given = {name: text for name, text in dataclasses.asdict(c.prompts).items() if text is not None}
    for name, text in given.items():
        if not text.strip():
            yield f"prompts.{name}: an empty text; None takes the project's own"
        elif set("{}") & set(text.replace(CRITERION, "")):
            yield f"prompts.{name}: braces are for {CRITERION} alone; take other signs for the rest"
        elif name == "judge_before" and not text.endswith("\n"):
            yield f"prompts.{name}: does not end in a line end, where the trace begins; add one"
        elif name == "judge_after" and text[0].isspace():
            yield f"prompts.{name}: begins with a blank, but the trace ends in a line end; cut it"
        elif name == "judge_after" and CRITERION in text:
            yield (
                f"prompts.{name}: {CRITERION} has no place in what is the same for all pairs; take "
                "it into prompts.question or prompts.judge_before"
            )
