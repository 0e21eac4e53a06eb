"""What `--help` says of configs."""

import dataclasses
import re

from lrt_jax.cli.config_help import WIDTH, config_help, described_fields
from lrt_jax.config import Config, default_config
from lrt_jax.config.schema import flat


@dataclasses.dataclass(frozen=True)
class Inner:
    """A part.

    Attributes:
      size: how large,
        over two lines.
    """

    size: int = 1


@dataclasses.dataclass(frozen=True)
class Outer(Inner):
    """A part with another.

    Attributes:
      colour: which.
      inner: the other.
    """

    colour: str = "red"
    inner: Inner = Inner()


def test_fields_are_described_by_their_docstrings_those_of_parents_too():
    size = "how large,\n    over two lines."
    assert [*described_fields(Outer)] == [
        ("size", size),
        ("colour", "which."),
        ("inner.size", size),
    ]


def test_every_field_of_a_config_that_can_be_set_is_shown_with_its_default():
    defaults = flat(default_config().to_dict())
    assert {name for name, _ in described_fields(Config)} == set(defaults)
    lines = config_help().splitlines()
    for name, default in defaults.items():
        assert (f"  {name}={default}" in lines) == (name != "preset")
    assert max(len(line) for line in lines if "=" not in line) <= WIDTH


def test_configs_are_shown_with_what_they_are_and_their_presets():
    text = re.sub(r"\s+", " ", config_help())
    assert "imagereward ImageRewardDB (arXiv 2304.05977): " in text
    assert "expert. Presets: auto, tiny, 3b, 7b. scenes Drawn scenes: " in text
