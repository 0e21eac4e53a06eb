"""Traces of steps, and which steps."""

import jax.numpy as jnp
import pytest

from lrt_jax.config import ConfigError, default_config, parse_config, steps_of
from lrt_jax.reporting.profiler import Profiler
from tests.logs import logged


@pytest.mark.parametrize(
    ("text", "steps"), [(None, []), ("3:5", [3, 4, 5]), ("1:1", [1]), ("07:8", [7, 8])]
)
def test_steps_are_named_by_the_first_and_the_last(text, steps):
    assert list(steps_of(text)) == steps


@pytest.mark.parametrize("text", ["3", "3:", "5:3", "0:2", "a:b", "-1:2", "1:2:3"])
def test_what_names_no_steps_is_refused(text):
    with pytest.raises(ValueError, match="FIRST:LAST"):
        steps_of(text)
    config = default_config()
    config.data.path, config.profile = "data", text
    with pytest.raises(ConfigError, match="profile: .* FIRST:LAST"):
        parse_config(config)


def trace(folder, steps, taken):
    """Takes steps; the files of the traces, and what was logged."""
    with logged() as lines, Profiler(steps_of(steps), folder) as profiler:
        for number in taken:
            with profiler.step(number):
                jnp.ones(number).sum().block_until_ready()
    return sorted(folder.rglob("*.xplane.pb")), lines


def test_a_trace_has_the_steps_by_their_number(tmp_path):
    [file], [line] = trace(tmp_path, "2:3", range(1, 5))
    content = file.read_bytes()
    assert b"step_num" in content and file.is_relative_to(tmp_path / "profile")
    assert line == f"profile: xprof --logdir={tmp_path / 'profile'}"


def test_a_run_that_goes_on_among_the_steps_or_ends_there_leaves_its_trace(tmp_path):
    assert len(trace(tmp_path / "on", "2:9", [5, 6])[0]) == 1
    assert trace(tmp_path / "behind", "2:3", [5, 6]) == ([], [])
    with pytest.raises(ZeroDivisionError), Profiler(range(1, 9), tmp_path / "end") as p:
        with p.step(1):
            pass
        1 / 0  # noqa: B018
    assert list((tmp_path / "end").rglob("*.xplane.pb"))
