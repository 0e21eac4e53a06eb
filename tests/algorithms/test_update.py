"""What an update says of sampler and trainer."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lrt_jax.algorithms.update import _further_metrics
from tests.rl.recorded import record

TRAINER = np.log([[[0.5, 0.9, 0.9, 0.1]]]).astype(np.float32)
SAMPLER = np.log([[[0.5, 0.1, 0.6, 0.3]]]).astype(np.float32)
TOKENS = TRAINER.size


@pytest.fixture(scope="module")
def metrics(one):
    """Of one completion, of whose tokens so many count."""
    drawn = record(one, pairs=1, group=1, time=TOKENS)
    drawn = drawn.replace(sampler_logps=jnp.array(SAMPLER))

    def metrics(length: int, cap: float | None) -> dict[str, jax.Array]:
        sums = {"tokens": jnp.array(length), "loss": jnp.zeros(()), "entropy": jnp.zeros(())}
        counted = drawn.replace(length=jnp.full((1, 1), length))
        return _further_metrics(sums, {"a": jnp.ones(1)}, jnp.array(TRAINER), counted, cap)

    return metrics


def test_the_share_of_tokens_whose_weight_is_cut(metrics):
    """Ratios 1, 9, 1.5 and a third: a cap cuts what is above it, and says nothing of the rest."""
    assert metrics(TOKENS, 2.0)["sampler_cut"] == pytest.approx(1 / 4)
    assert metrics(TOKENS, 1.4)["sampler_cut"] == pytest.approx(2 / 4)
    assert metrics(2, 1.4)["sampler_cut"] == pytest.approx(1 / 2)
    assert "sampler_cut" not in metrics(TOKENS, None)


def test_the_drift_is_of_log_probabilities(metrics):
    drift = np.abs(TRAINER - SAMPLER)
    found = metrics(TOKENS, None)
    assert found["sampler_drift_mean"] == pytest.approx(drift.mean())
    assert found["sampler_drift_max"] == pytest.approx(drift.max())
