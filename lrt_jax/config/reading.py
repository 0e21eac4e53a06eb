"""From nested values to a config, telling all that is wrong with them at once."""

import dataclasses
import difflib
import typing
from collections.abc import Iterable, Mapping
from typing import Any

import ml_collections

from lrt_jax.config.checks import problems_of
from lrt_jax.config.schema import Config


class ConfigError(ValueError):
    """A config that cannot be run; the message lists every problem."""

    def __init__(self, problems: list[str]):
        self.problems = problems
        super().__init__("the config cannot be run:\n" + "\n".join(f"  {p}" for p in problems))


def read(values: Mapping[str, Any]) -> Config:
    """Builds a config; see `Config.parse`."""
    unknown: list[str] = []
    wrong: list[str] = []
    plain = values.to_dict() if isinstance(values, ml_collections.ConfigDict) else dict(values)
    config = _build(Config, _known(Config, plain, "", unknown), "", wrong)
    if not wrong:  # values of other types cannot be compared
        wrong += problems_of(config)
    if problems := unknown + wrong:
        raise ConfigError(problems)
    return config


def unknown_field(name: str, known: Iterable[str]) -> str:
    """What to say of a field that there is not, with the nearest that there is."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(sorted(known))}"
    return f"{name}: no such field; {hint}"


def _known(cls, values: Mapping[str, Any], prefix: str, unknown: list[str]) -> dict[str, Any]:
    """The fields that there are, however deep; the others are told in `unknown`."""
    hints = typing.get_type_hints(cls)
    names = [f"{prefix}{name}" for name in hints]
    unknown += [unknown_field(f"{prefix}{name}", names) for name in values if name not in hints]
    known = {name: value for name, value in values.items() if name in hints}
    for name, value in known.items():
        if dataclasses.is_dataclass(hints[name]) and isinstance(value, Mapping):
            known[name] = _known(hints[name], value, f"{prefix}{name}.", unknown)
        elif inside := _dataclass_inside(hints[name], value):
            known[name] = [
                _known(inside, x, f"{prefix}{name}[{i}].", unknown) if isinstance(x, Mapping) else x
                for i, x in enumerate(value)
            ]
    return known


def _dataclass_inside(kind, value) -> type | None:
    """The class of the elements, where a field holds a sequence of configs."""
    inside = typing.get_args(kind)
    if typing.get_origin(kind) is tuple and isinstance(value, list | tuple):
        return inside[0] if dataclasses.is_dataclass(inside[0]) else None
    return None


def _build(cls, values: Mapping[str, Any], prefix: str, problems: list[str]):
    """Builds a dataclass from values of known fields, adding to `problems` instead of raising."""
    hints = typing.get_type_hints(cls)
    built = {}
    for name, value in values.items():
        if dataclasses.is_dataclass(hints[name]) and isinstance(value, Mapping):
            built[name] = _build(hints[name], value, f"{prefix}{name}.", problems)
        else:
            built[name] = _coerce(hints[name], value, f"{prefix}{name}", problems)
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
