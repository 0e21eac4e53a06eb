"""Reward terms by hand, and everything that must not pass in silence."""

import numpy as np
import pytest

from lrt_jax.rl import rewards


def verdicts(**changes):
    """Two pairs: a hard label for the second image, and 80 % of the votes for the first."""
    fields = {
        "well_formed": np.array([[True, True, False], [True, False, True]]),
        "choice": np.array([[1, 0, -1], [0, 1, 1]], np.int8),
        "listener_p_first": np.array([[0.1, 0.4, np.nan], [0.9, 0.3, 0.5]], np.float32),
        "p_first": np.array([0.0, 0.8], np.float32),
    }
    return rewards.RewardInputs(**(fields | changes))


def test_terms_by_hand():
    got = rewards.combine(verdicts(), rewards.DEFAULT_WEIGHTS)
    expected = {
        "format": [[1, 1, 0], [1, 0, 1]],
        "accuracy": [[1, 0, 0], [0.8, 0.2, 0.2]],
        "listener": [[0.9, 0.6, 0], [0.74, 0.38, 0.5]],
    }
    assert got.terms.keys() == expected.keys()
    for name, values in expected.items():
        assert got.terms[name].dtype == np.float32
        np.testing.assert_allclose(got.terms[name], values, atol=1e-6, err_msg=name)
    np.testing.assert_allclose(got.total, [[1.95, 1.3, 0], [1.77, 0.29, 1.35]], atol=1e-6)
    assert got.total.dtype == np.float32


def test_default_weights_are_the_papers():
    assert rewards.DEFAULT_WEIGHTS == {"format": 1.0, "accuracy": 0.5, "listener": 0.5}


def test_listener_is_paid_for_the_truth_not_for_agreement():
    swapped = verdicts(choice=np.array([[0, 1, -1], [1, 0, 0]], np.int8))
    np.testing.assert_array_equal(rewards.listener_term(swapped), rewards.listener_term(verdicts()))


def test_a_tie_pays_one_half_whatever_is_chosen():
    tied = verdicts(p_first=np.array([0.5, 0.5], np.float32))
    assert rewards.accuracy_term(tied).tolist() == [[0.5, 0.5, 0], [0.5, 0.5, 0.5]]
    np.testing.assert_allclose(rewards.listener_term(tied), [[0.5, 0.5, 0], [0.5] * 3])


def test_weight_zero_needs_no_listener():
    weights = rewards.DEFAULT_WEIGHTS | {"listener": 0.0}
    without = rewards.combine(verdicts(listener_p_first=None), weights)
    assert "listener" not in without.terms
    logged = rewards.combine(verdicts(), weights)  # known, so logged, yet without weight
    assert "listener" in logged.terms
    np.testing.assert_array_equal(without.total, logged.total)


def test_weighted_listener_without_a_listener():
    with pytest.raises(ValueError, match="listener"):
        rewards.combine(verdicts(listener_p_first=None), rewards.DEFAULT_WEIGHTS)


def test_unknown_term_names_the_known_and_the_nearest():
    with pytest.raises(ValueError, match="nearest is 'accuracy'.*format, accuracy, listener"):
        rewards.combine(verdicts(), {"acuracy": 1.0})


@pytest.mark.parametrize("weights", [{}, {"format": float("nan")}, {"format": float("inf")}])
def test_weights_that_make_no_sense(weights):
    with pytest.raises(ValueError, match="reward term"):
        rewards.combine(verdicts(), weights)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_not_finite_raises_with_term_and_place(bad):
    p_first = verdicts().listener_p_first.copy()
    p_first[1, 2] = bad
    with pytest.raises(FloatingPointError, match=r"'listener'.*member 2.*rows \[1\]"):
        rewards.combine(verdicts(listener_p_first=p_first), rewards.DEFAULT_WEIGHTS)
    with pytest.raises(FloatingPointError, match=r"'accuracy'.*member 0.*rows \[0"):
        target = np.array([bad, 0.8], np.float32)
        rewards.combine(verdicts(p_first=target), rewards.DEFAULT_WEIGHTS)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    "changes",
    [
        {"well_formed": np.ones((2, 2), bool)},
        {"p_first": np.ones(3, np.float32)},
        {"listener_p_first": np.ones((3, 2), np.float32)},
        {"choice": np.array([[1, 2, 2], [1, 1, 1]], np.int8)},
    ],
)
def test_verdicts_that_do_not_fit(changes):
    with pytest.raises(ValueError, match="shape|choice"):
        verdicts(**changes)


def test_metrics_of_terms_and_total():
    terms = {"accuracy": np.array([[1, 1, 1], [0, 1, 2]], np.float32)}
    total = np.array([[0.5, 0.5, 0.8], [0.0, 0.5, 1.0]], np.float32)
    metrics = rewards.reward_metrics(rewards.Rewards(terms, total))
    assert metrics["reward/accuracy/mean"] == 1.0
    assert metrics["reward/accuracy/spread"] == pytest.approx(0.5)  # group deviations 0 and 1
    assert metrics["reward/accuracy/zero_spread"] == 0.5
    assert metrics["reward/total/zero_spread"] == 0.0
    assert all(type(value) is float for value in metrics.values())
    single = rewards.reward_metrics(rewards.Rewards({}, total[:, :1]))
    assert single["reward/total/spread"] == 0.0


def test_a_group_of_two_has_a_spread():
    total = np.array([[1.0, 3.0], [2.0, 2.0]], np.float32)
    metrics = rewards.reward_metrics(rewards.Rewards({}, total))
    assert metrics["reward/total/spread"] == pytest.approx(np.sqrt(2) / 2)
    assert rewards.reward_metrics(rewards.Rewards({}, total[:, :1]))["reward/total/spread"] == 0.0
