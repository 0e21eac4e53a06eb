"""What earlier versions called the fields of a config, in which form runs are recorded and told
apart: a run that such a version began goes on, and what it left behind is read.
"""

from collections.abc import Mapping
from typing import Any

# Earlier name of a field, and its name; a field stays in its part.
RENAMED = {
    "data.lessons": "data.demonstrations",
    "loss.level": "loss.importance_sampling_level",
    "loss.sampler_cap": "loss.importance_sampling_cap",
    "model.fresh": "model.from_scratch",
}
_EARLIER = {name: earlier for earlier, name in RENAMED.items()}


def present_form(values: Mapping[str, Any], part: str = "") -> dict[str, Any]:
    """Values that an earlier version may have recorded, under the names of today.

    Args:
      values: of a config, nested, or of one of its parts.
      part: that they are of, such as `model`; empty for the whole config.
    """
    return _named(values, RENAMED, f"{part}." if part else "")


def earlier_form(values: Mapping[str, Any]) -> dict[str, Any]:
    """A config's nested values as earlier versions would record them; digests are of this form."""
    return _named(values, _EARLIER, "")


def _named(values: Mapping[str, Any], names: Mapping[str, str], prefix: str) -> dict[str, Any]:
    found = {}
    for name, value in values.items():
        inside = isinstance(value, Mapping)
        called = names.get(f"{prefix}{name}", name).rpartition(".")[2]
        found[called] = _named(value, names, f"{prefix}{name}.") if inside else value
    return found
