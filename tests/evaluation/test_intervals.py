"""The bootstrap's interval has the width that statistics give it."""

import numpy as np
import pytest

from lrt_jax.evaluation.metrics import cluster_bootstrap, outcomes, tune_tie_threshold


def test_an_interval_holds_95_per_cent():
    """Of the mean of many clusters, whose distribution is nearly normal."""
    values = np.random.default_rng(0).normal(size=400)
    low, high = cluster_bootstrap(values, np.ones(400), np.arange(400), n=20_000)
    error = values.std() / np.sqrt(400)
    assert low == pytest.approx(values.mean() - 1.96 * error, abs=0.06 * error)
    assert high == pytest.approx(values.mean() + 1.96 * error, abs=0.06 * error)


def test_rows_of_a_cluster_are_drawn_together():
    """Ten equal rows of each tell no more than one of each."""
    values = np.random.default_rng(1).normal(size=100)
    once = cluster_bootstrap(values, np.ones(100), np.arange(100))
    tenfold = cluster_bootstrap(np.repeat(values, 10), np.ones(1000), np.repeat(np.arange(100), 10))
    np.testing.assert_allclose(once, tenfold)


def test_the_threshold_of_ties_is_the_smallest_that_fits_best():
    human = np.array([0.5, 0.5, 1.0, 0.0])
    threshold = tune_tie_threshold(np.array([0.45, 0.55, 0.8, 0.1]), human)
    assert threshold == pytest.approx(0.05)
    assert outcomes(np.array([0.45, 0.8, np.nan]), threshold + 1e-9).tolist()[:2] == [0.5, 1.0]
