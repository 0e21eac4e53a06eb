"""From nested values to a config, telling all that is wrong with them at once."""

import dataclasses
import difflib
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import ml_collections

from lrt_jax.config.checks import problems_of
from lrt_jax.config.earlier import RENAMED, absent_as_none
from lrt_jax.config.schema import Config, without_none


class ConfigError(ValueError):
    """A config that cannot be run; the message lists every problem."""

    def __init__(self, problems: list[str]):
        self.problems = problems
        super().__init__("the config cannot be run:\n" + "\n".join(f"  {p}" for p in problems))


def parse_config(
    values: Mapping[str, Any], further: Callable[[Config], Iterable[str]] = lambda config: ()
) -> Config:
    """Builds a config from nested values.

    What scripts for earlier versions say where a value is absent, such as 0 for a cap or an empty
    text for a path, is still read as None, by the table `earlier.ABSENT`.

    Args:
      values: of any of the fields.
      further: finds problems that only what is named by the config knows, such as an algorithm;
        asked where there are no others.

    Raises:
      ConfigError: unknown fields, wrong types or values, impossible combinations; all of them.
    """
    found = _Problems([], [])
    plain = values.to_dict() if isinstance(values, ml_collections.ConfigDict) else values
    config = _build(Config, absent_as_none(plain), "", found)
    # Values of another type cannot be compared.
    problems = found.unknown + (found.wrong_type or list(problems_of(config)))
    problems = problems or list(further(config))
    if problems:
        raise ConfigError(problems)
    return config


# What fields are called elsewhere: last part of a name, and our field.
USUAL_NAMES = {
    "lr": "optimizer.learning_rate",
    "max_steps": "steps",
    "num_steps": "steps",
    "num_train_steps": "steps",
    "train_batch_size": "batch_size",
    "per_device_train_batch_size": "batch_size",
    "num_generations": "group_size",
    "max_new_tokens": "max_completion_length",
    "max_tokens": "max_completion_length",
    "max_grad_norm": "optimizer.clip_norm",
    "grad_clip": "optimizer.clip_norm",
    "adam_beta1": "optimizer.b1",
    "adam_beta2": "optimizer.b2",
    "lr_scheduler_type": "optimizer.schedule",
    "kl_coef": "loss.beta",
    "clip_range": "loss.epsilon",
    "loss_type": "loss.type",
    "save_steps": "checkpoint_every",
    "save_every": "checkpoint_every",
    "eval_steps": "eval.every",
    "eval_every": "eval.every",
    "model_name_or_path": "model.path",
    "model_path": "model.path",
    "dataset": "data.source",
    "num_workers": "data.workers",
}


def unknown_field(name: str, known: Iterable[str]) -> str:
    """What to say of a field that there is not, with the nearest that there is."""
    if name in RENAMED:
        return f"{name}: no such field; it is called {RENAMED[name]} now"
    known = list(known)
    usual = USUAL_NAMES.get(name.rpartition(".")[2])
    near = [usual] if usual else difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(sorted(known))}"
    return f"{name}: no such field; {hint}"


@dataclasses.dataclass
class _Problems:
    """Problems found in the values, to be reported together."""

    unknown: list[str]  # fields, and words of fields that take some words alone
    wrong_type: list[str]


def _build(cls, values: Mapping[str, Any], prefix: str, found: _Problems):
    """Builds a dataclass of the fields that it has, however deep they lie."""
    hints = typing.get_type_hints(cls)
    names = [f"{prefix}{name}" for name in hints]
    found.unknown += [unknown_field(f"{prefix}{x}", names) for x in values if x not in hints]
    known = {name: value for name, value in values.items() if name in hints}
    return cls(**{x: _coerce(hints[x], known[x], f"{prefix}{x}", found) for x in known})


def _coerce(kind, value, name: str, found: _Problems):
    """A value as its field wants it; a wrong one is returned as it is, and reported."""
    if dataclasses.is_dataclass(kind) and isinstance(value, Mapping):
        return _build(kind, value, f"{name}.", found)
    if given := without_none(kind):
        return None if value is None else _coerce(given, value, name, found)
    container, inside = typing.get_origin(kind), typing.get_args(kind)
    if container is typing.Literal:
        if value not in inside:
            found.unknown.append(f"{name}: {value!r} is not one of {', '.join(inside)}")
        return value
    if container is tuple and isinstance(value, list | tuple):
        return tuple(_coerce(inside[0], v, f"{name}[{i}]", found) for i, v in enumerate(value))
    if container is Mapping and isinstance(value, Mapping):
        return {key: _coerce(inside[1], v, f"{name}.{key}", found) for key, v in value.items()}
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind:
        wanted = getattr(container or kind, "__name__", str(kind))
        found.wrong_type.append(f"{name}: {value!r} is {type(value).__name__}, expected {wanted}")
    return value
