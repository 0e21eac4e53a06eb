"""What earlier versions called the fields of a config, and said where a value is absent.

By these tables a run that such a version began goes on, and what it recorded is read. Digests that
tell runs apart are of the earlier form, so that they stay what they were.
"""

from collections.abc import Callable, Mapping
from typing import Any

# Earlier name of a field, and its name; a field stays in its part.
RENAMED = {
    "data.lessons": "data.demonstrations",
    "loss.level": "loss.importance_sampling_level",
    "loss.sampler_cap": "loss.importance_sampling_cap",
    "model.fresh": "model.from_scratch",
}
# Fields that may be None, and what earlier versions said where they had no value: no value of these
# fields. Whoever says it still is understood so.
ABSENT = {
    "profile": "",
    "data.criterion": "",
    "data.demonstrations": "",
    "data.judge_tokens": 0,
    "data.max_patches": 0,
    "data.path": "",
    "data.prompt_tokens": 0,
    "data.train_split": "",
    "listener.path": "",
    "loss.delta": 0.0,
    "loss.epsilon_high": 0.0,
    "loss.importance_sampling_cap": 0.0,
    "optimizer.clip_norm": 0.0,
    "optimizer.mu_dtype": "",
}
_EARLIER = {name: earlier for earlier, name in RENAMED.items()}
Change = Callable[[str, Any], tuple[str, Any]]  # of a field's dotted name and value


def absent_as_none(values: Mapping[str, Any]) -> dict[str, Any]:
    """A config's nested values with None where one says what `ABSENT` has for its field."""
    return _changed(values, "", _absent_as_none)


def present_form(values: Mapping[str, Any], part: str = "") -> dict[str, Any]:
    """Values that an earlier version may have recorded, as today's would record them.

    Args:
      values: of a config, nested, or of one of its parts.
      part: that they are of, such as `model`; empty for the whole config.
    """
    prefix = f"{part}." if part else ""
    return _changed(values, prefix, lambda name, x: _absent_as_none(RENAMED.get(name, name), x))


def earlier_form(values: Mapping[str, Any]) -> dict[str, Any]:
    """A config's nested values as earlier versions would record them; digests are of this form."""

    def change(name: str, value: Any) -> tuple[str, Any]:
        return _EARLIER.get(name, name), ABSENT.get(name) if value is None else value

    return _changed(values, "", change)


def _absent_as_none(name: str, value: Any) -> tuple[str, Any]:
    plain = type(value) in (str, int, float)  # not bool: False is no 0
    return name, None if plain and name in ABSENT and value == ABSENT[name] else value


def _changed(values: Mapping[str, Any], prefix: str, change: Change) -> dict[str, Any]:
    """Nested values with every name and value changed; `others` have the fields of their part."""

    def inside(name: str, value: Any) -> Any:
        if isinstance(value, Mapping):
            return _changed(value, f"{prefix}{name}.", change)
        if isinstance(value, list | tuple) and name == "others":
            return type(value)(
                _changed(x, prefix, change) if isinstance(x, Mapping) else x for x in value
            )
        return value

    changed = (change(f"{prefix}{name}", inside(name, x)) for name, x in values.items())
    return {name.removeprefix(prefix): value for name, value in changed}
