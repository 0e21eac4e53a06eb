"""Means of the sums that losses are reported by."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lrt_jax.config import LossConfig
from lrt_jax.rl.losses import grpo_loss, mean_metrics

SUMS = {"sequences": 2, "tokens": 6, "ratios": 4, "ratio": 5, "clip_low": 1, "clip_high": 3}


def means_of(**changes):
    sums = {name: jnp.float32(x) for name, x in (SUMS | changes).items()}
    return {name: float(mean) for name, mean in mean_metrics(sums).items()}


def test_each_mean_is_over_what_its_sum_counts():
    assert means_of(kl=1.5) == {
        "ratio": 1.25,
        "clip_share_low": 0.25,
        "clip_share_high": 0.75,
        "completion_length": 3.0,
        "kl": 0.25,
    }


@pytest.mark.parametrize("count", [0, 1])
def test_a_mean_over_one_is_the_sum_and_over_nothing_no_nan(count):
    means = means_of(sequences=count, tokens=count, ratios=count, kl=0.5)
    assert means["ratio"] == 5.0 and means["kl"] == 0.5
    assert means["clip_share_low"] == 1.0 and means["completion_length"] == count


@pytest.mark.parametrize("level", ["token", "sequence"])
def test_a_completion_without_tokens_neither_costs_nor_pulls(level):
    mask = jnp.array([[1, 1, 0], [0, 0, 0]])
    logps = jnp.array([[-1.0, -2.0, -3.0], [-1.0, -1.0, -1.0]])

    def loss(new):
        loss = LossConfig(importance_sampling_level=level)
        advantages = jnp.array([1.0, 5.0])
        sums = grpo_loss(new, logps, None, advantages, mask, loss, max_completion_length=3)
        return sums[0]

    value, slope = jax.value_and_grad(loss)(logps)
    assert float(value) == -0.5
    np.testing.assert_allclose(slope, [[-0.25, -0.25, 0.0], [0.0, 0.0, 0.0]], atol=1e-6)
