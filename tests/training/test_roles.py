"""What the models of a run are for, and what they are worth there."""

import json

import pytest

from lrt_jax.config import parse_config
from lrt_jax.config.presets import preset_config
from lrt_jax.training.roles import warn_of_tiny
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
