"""Evaluations as a run keeps them."""

import json

import pytest

from lrt_jax.storage.digests import sealed
from lrt_jax.training import evaluations
from lrt_jax.training.evaluations import (
    FIELDS,
    LATER_FIELDS,
    OF_GREEDY,
    evaluate_once,
    headline,
    log_listeners_at_chance,
    read_evaluation,
    read_evaluations,
)
from tests.logs import logged
from tests.training.test_files import evaluation


def test_an_evaluation_that_is_gone_is_told_with_the_reason(tmp_path):
    with pytest.raises(FileNotFoundError, match="step-000003.json: no such file, and the run it"):
        read_evaluation(tmp_path, 3)


def test_a_figure_that_was_changed_in_the_file_is_told(tmp_path, monkeypatch):
    greedy = {f"{name}{ending}": None for name in OF_GREEDY for ending in ("", "_ci95")}
    content = dict.fromkeys(FIELDS) | {"accuracy": 0.625, "greedy": greedy, "judgements": {}}
    monkeypatch.setattr(evaluations, "evaluate_params", lambda *_: content)
    monkeypatch.setattr(evaluations, "describe", lambda *_: "")
    state = type("State", (), {"params": {}})()
    made = headline(evaluate_once(None, state, tmp_path, 4))
    path = tmp_path / "eval" / "step-000004.json"
    assert headline(json.loads(path.read_text())) == made and made["accuracy"] == 0.625
    path.write_text(path.read_text().replace("0.625", "0.635"))
    with pytest.raises(ValueError, match="changed or damaged"):
        headline(json.loads(path.read_text()))


BOUNDS = {"near": [0.45, 0.51], "above": [0.51, 0.6], "below": [0.3, 0.49], "unknown": None}


@pytest.mark.parametrize(
    ("alone", "with_trace", "told"),
    [
        ("near", "near", True),
        ("near", "above", False),
        ("below", "near", False),
        ("near", "unknown", False),
    ],
)
def test_a_listener_at_chance_with_a_trace_and_without_one_is_told(alone, with_trace, told):
    for field, name in (("listener", "the listener"), ("held_out", "the held-out listener")):
        accuracy = {"alone_ci95": BOUNDS[alone], "ci95": BOUNDS[with_trace]}
        content = {f"{field}_accuracy_{end}": x for end, x in accuracy.items()}
        with logged() as lines:
            log_listeners_at_chance(content, "step 4")
        assert len(lines) == told
        assert not told or lines[0].startswith(
            f"step 4: {name} may be guessing: without a trace as"
        )


def test_evaluations_of_an_earlier_version_are_read(tmp_path):
    """They lack what was not measured then, as results of them do."""
    content = evaluation(4, accuracy=0.5)
    assert not {*LATER_FIELDS} & content.keys()
    path = tmp_path / "eval" / "step-000004.json"
    path.parent.mkdir()
    path.write_text(json.dumps(sealed(content)))
    found = headline(read_evaluation(tmp_path, 4))
    assert found["accuracy"] == 0.5 and found["held_out_accuracy"] is None
    assert found["held_out_accuracy_greedy"] is found["accuracy_reward_model_ci95"] is None


def test_an_evaluation_whose_seal_is_gone_is_told_with_its_file(tmp_path):
    path, content = tmp_path / "eval" / "step-000004.json", evaluation(4, accuracy=0.625)
    path.parent.mkdir()
    path.write_text(json.dumps(sealed(content)))
    assert read_evaluation(tmp_path, 4)["accuracy"] == 0.625
    path.write_text(json.dumps(content | {"accuracy": 0.635}))
    told = r"step-000004.json: cannot be used \(.*it has no sha256.*\); restore the run's .* step 4"
    for read in (read_evaluations, lambda workdir: read_evaluation(workdir, 4)):
        with pytest.raises(ValueError, match=told):
            read(tmp_path)
