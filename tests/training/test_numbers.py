"""Numbers that go wrong end a run with the step, the number and the pair, and lose nothing."""

import dataclasses

import jax
import numpy as np
import pytest

from lrt_jax.algorithms.grpo import GRPO
from lrt_jax.data.dataset.prepared_set import PreparedSet
from lrt_jax.parallel.mesh import make_mesh
from lrt_jax.reporting.metrics import read_metrics
from lrt_jax.rl.engine import Engine
from lrt_jax.storage.workdir import LocalWorkdir
from lrt_jax.training import loop, setup
from lrt_jax.training.loop import train
from tests.logs import logged
from tests.training.small_run import tiny_config

FEW = {"eval.pairs": 2, "eval.batch_size": 4, "eval.every": 0, "group_size": 2}


@pytest.fixture(autouse=True)
def one_device(monkeypatch):
    monkeypatch.setattr(setup, "make_mesh", lambda *_: make_mesh(devices=jax.devices()[:1]))


def test_parameters_that_went_wrong(data, tmp_path, monkeypatch):
    step = GRPO.step

    def poisoned(self, state, batch, number, monitor):
        if number == 3:
            state = state.replace(trainable=jax.tree.map(lambda x: x * np.nan, state.trainable))
        return step(self, state, batch, number, monitor)

    monkeypatch.setattr(GRPO, "step", poisoned)
    with pytest.raises(FloatingPointError, match=r"step 3: .*nan.* in hpdv2/train/.* and 1 more"):
        train(tiny_config(data, **FEW), LocalWorkdir(tmp_path))
    assert [line["step"] for line in read_metrics(tmp_path)] == [1, 2]

    monkeypatch.setattr(GRPO, "step", step)
    evaluate_once = loop.evaluate_once

    def evaluate_poisoned(run, state, *args):
        bad = state.replace(trainable=jax.tree.map(lambda x: x * np.nan, state.trainable))
        return evaluate_once(run, bad, *args)

    monkeypatch.setattr(loop, "evaluate_once", evaluate_poisoned)
    # The last good checkpoint is there.
    message = r"evaluation after 4 steps, model .*tiny.*: the log-probability of its tokens is not"
    with logged() as lines, pytest.raises(FloatingPointError, match=message):
        train(tiny_config(data, **FEW), LocalWorkdir(tmp_path))
    assert any("going on from the checkpoint of step 2" in line for line in lines)
    assert [line["step"] for line in read_metrics(tmp_path)] == [1, 2, 3, 4]
    assert [path.name for path in (tmp_path / "eval").iterdir()] == ["step-000000.json"]

    monkeypatch.setattr(loop, "evaluate_once", evaluate_once)
    with logged() as lines:
        train(tiny_config(data, **FEW), LocalWorkdir(tmp_path))
    assert any("going on from the checkpoint of step 4" in line for line in lines)


def test_an_update_after_which_there_are_no_numbers(data, tmp_path):
    """Loss and gradient are still sound then; what they made of the parameters is not."""
    config = tiny_config(data, **FEW, **{"optimizer.learning_rate": 1e38})
    with pytest.raises(FloatingPointError, match=r"step 1: param_norm is (inf|nan)"):
        train(config, LocalWorkdir(tmp_path))
    assert not [*(tmp_path / "checkpoints").iterdir()]


def test_a_listener_that_gives_no_number_for_one_pair(data, tmp_path, monkeypatch):
    score, shown = Engine.score_frozen, []

    def one_without_number(self, batch, *args, **options):
        scores = score(self, batch, *args, **options)
        p_first = np.array(scores.p_first)
        p_first[1] = np.nan
        shown.append(int(np.asarray(batch.target.pair)[1]))
        return dataclasses.replace(scores, p_first=p_first)

    read = Engine.decode_rollout

    def all_answered(self, rollout):
        completions = read(self, rollout)
        return dataclasses.replace(completions, choice=np.zeros_like(completions.choice))

    monkeypatch.setattr(loop, "evaluate_once", lambda *_: {})
    monkeypatch.setattr(loop, "read_evaluation", lambda *_: {})
    monkeypatch.setattr(Engine, "score_frozen", one_without_number)
    monkeypatch.setattr(Engine, "decode_rollout", all_answered)
    with pytest.raises(FloatingPointError, match="step 1: reward term 'listener' is nan") as caught:
        train(tiny_config(data, **FEW), LocalWorkdir(tmp_path))
    assert f"in {PreparedSet(tmp_path / 'data').pair(shown[-1]).uid}." in str(caught.value)
