"""What a step's completions and listeners come to, as numbers."""

import numpy as np
import pytest

from lrt_jax.algorithms.grpo import GRPO
from lrt_jax.algorithms.grpo_report import completion_metrics
from lrt_jax.data.schema import FIRST, NO_CHOICE, SECOND, TIE
from lrt_jax.evaluation.predictions import Predictions, listener_confidence
from lrt_jax.rl.completions import Completions
from lrt_jax.rl.engine import FrozenScores

CHOICE = np.array([[0, 1, -1], [1, -1, -1], [0, 0, 1]], np.int8)
HEARD = np.array([[0.9, 0.4, 0.1], [0.3, 0.0, 1.0], [0.7, 0.7, 0.7]])
LABEL = np.array([FIRST, SECOND, TIE])


def metrics_of(choice, heard=HEARD):
    shape = choice.shape
    texts = [[""] * shape[1]] * shape[0]
    completions = Completions(
        texts=texts,
        traces=texts,
        well_formed=choice >= 0,
        choice=choice,
        answer_position=np.zeros(shape, np.int32),
        length=np.ones(shape, np.int32),
        truncated=np.zeros(shape, bool),
        nucleus_mass=np.ones(shape, np.float32),
    )
    return completion_metrics(
        completions, FrozenScores(heard, None, np.zeros(shape[0], int)), LABEL
    )


def test_the_listeners_confidence_is_what_an_evaluation_calls_so():
    """Over readable answers on pairs that are no tie: an unreadable one is no listener's zero."""
    rows = CHOICE.size
    target = np.repeat([1.0, 0.0, 0.5], 3).astype(np.float32)
    values, defined = listener_confidence(
        Predictions(
            pair=np.arange(rows),
            cluster=np.zeros(rows, int),
            swapped=np.zeros(rows, bool),
            choice=CHOICE.ravel(),
            p_first=np.full(rows, 0.5, np.float32),
            listener_p_first=HEARD.ravel().astype(np.float32),
            target=target,
            margin=np.ones(rows, np.float32),
        )
    )
    got = metrics_of(CHOICE)["listener/confidence"]
    assert got == pytest.approx(values[defined].mean()) == pytest.approx((0.9 + 0.4 + 0.7) / 3)


def test_a_step_of_which_it_is_not_known_has_no_confidence():
    assert "listener/confidence" not in metrics_of(np.full((3, 3), NO_CHOICE, np.int8))
    assert "listener/confidence" not in metrics_of(CHOICE, None)


def test_the_picture_draws_training_and_held_out_by_one_definition():
    [panel] = [x for x in GRPO.panels if "listener_confidence" in x.points.values()]
    assert [*panel.lines.values()] == ["listener/confidence"]
    assert panel.title.endswith("readable answers")
