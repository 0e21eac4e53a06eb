"""What the models of a run are for, and what they are worth there."""

import json

import pytest

from lrt_jax.config import parse_config
from lrt_jax.config.presets import preset_config
from lrt_jax.training.roles import find_held_out, warn_of_tiny
from tests.logs import logged


def warned(policy=None, **changes):
    values = preset_config("tiny")
    values.update_from_flattened_dict({"data.source": "folder", "data.path": "x"} | changes)
    with logged() as lines:
        warn_of_tiny(parse_config(values), policy)
    assert len(lines) <= 1
    return lines[0] if lines else ""


def model_made_of(folder, model, from_scratch=False, field="from_scratch"):
    """A folder that looks like an export of a run."""
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    made_of = {"trained_from": {"model": model, field: from_scratch}}
    (folder / "lrt_jax.json").write_text(json.dumps(made_of))
    return str(folder)


def held_out(policy=None, **changes):
    """The held-out listener, and what the log says of it."""
    values = preset_config("tiny")
    values.update_from_flattened_dict({"data.source": "scenes"} | changes)
    with logged() as lines:
        found = find_held_out(parse_config(values), policy)
    return found, lines


def test_the_held_out_listener_is_asked_as_the_first_listener_is(tmp_path):
    other = model_made_of(tmp_path / "other", "else")
    how = {"listener.style": "judge", "listener.drop_verdicts": True, "algorithm": "grpo"}
    found, lines = held_out(**{"eval.held_out_listener": other} | how)
    assert (found.path, found.style, found.drop_verdicts, lines) == (other, "judge", True, [])
    assert held_out(**{"eval.held_out_listener": None}) == (None, [])


def test_a_listener_that_is_not_held_out_is_told_and_left_out(tmp_path):
    other = model_made_of(tmp_path / "other", "else")
    same = str(tmp_path / "." / "other")
    asked = {"eval.held_out_listener": same}
    for policy, changes, role in (
        (None, {"listener.path": other}, "a listener of the run"),
        (None, {"listener.others": ({"path": other},)}, "a listener of the run"),
        (None, {"model.path": other}, "the model that the run starts from"),
        (other, {}, "the model that is evaluated"),
    ):
        found, lines = held_out(policy, **asked, **changes)
        assert found is None
        assert lines == [
            f"eval.held_out_listener: {same} is {role}, so it measures nothing new and is not "
            "asked again"
        ]


def test_a_listener_that_nobody_asks_else_is_held_out(tmp_path):
    """As one that plain GRPO does not listen to, or of which new weights are drawn."""
    other = model_made_of(tmp_path / "other", "else")
    asked = {"eval.held_out_listener": other, "algorithm": "grpo"}
    assert held_out(**asked, **{"listener.path": other})[0].path == other
    fresh = {"algorithm": "sft", "model.path": other, "model.from_scratch": True}
    assert held_out(**asked | fresh, **{"listener.weight": 0.0})[0].path == other


def test_a_held_out_listener_of_drawn_shapes_is_warned_of(tmp_path):
    other = model_made_of(tmp_path / "other", "else")
    real = {"data.source": "folder", "data.path": "x", "model.path": other, "algorithm": "grpo"}
    values = preset_config("tiny")
    values.update_from_flattened_dict(real | {"eval.held_out_listener": "tiny"})
    config = parse_config(values)
    with logged() as lines:
        warn_of_tiny(config, None, find_held_out(config, None))
    assert "and is held-out listener for pictures of folder" in lines[0]


def test_the_built_in_model_is_told_to_know_drawn_shapes_only():
    line = warned()
    assert line.startswith("warning: the built-in model knows drawn shapes only, and is policy and")
    assert "listener for pictures of folder" in line and "preset 3b or 7b" in line
    assert "is policy for" in warned(algorithm="grpo")
    assert warned(**{"data.source": "scenes"}) == ""
    others = ({"source": "hpdv2", "path": "y", "share": 0.0},)
    assert "of hpdv2:" in warned(**{"data.source": "scenes", "data.others": others})


@pytest.mark.parametrize("field", ["from_scratch", "fresh"])  # of earlier versions
@pytest.mark.parametrize(
    "name, from_scratch, roles",
    [
        ("tiny", False, "policy and listener"),
        ("tiny", True, "listener"),
        ("Qwen/Qwen2.5-VL-3B-Instruct", False, "listener"),
    ],
)
def test_what_comes_of_the_built_in_model_is_told_too(tmp_path, name, from_scratch, roles, field):
    """The listener stays that of the config, the built-in model."""
    policy = model_made_of(tmp_path / "model", name, from_scratch, field)
    assert f"is {roles} for" in warned(policy)
    assert warned(policy, **{"data.source": "scenes"}) == ""
    other = {"model.path": model_made_of(tmp_path / "other", "else"), "algorithm": "grpo"}
    assert ("is policy for" in warned(policy, **other)) == ("policy" in roles)
