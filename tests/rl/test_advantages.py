"""Group-relative advantages and the two questions about a group's spread."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lrt_jax.rl import advantages

REWARDS = np.array([[0.0, 1.0, 2.0, 5.0], [1.7, 1.7, 1.7, 1.7], [0.3, 0.1, 0.2, 0.2]], np.float32)


def test_group_scale_by_hand():
    got = advantages.group_advantages(REWARDS, scale="group")
    assert got.dtype == np.float32
    std = np.sqrt((4 + 1 + 0 + 9) / 3)  # unbiased
    np.testing.assert_allclose(got[0], np.array([-2, -1, 0, 3]) / (std + 1e-4), rtol=1e-5)


def test_none_scale_only_centres():
    got = advantages.group_advantages(REWARDS, scale="none")
    np.testing.assert_allclose(got[0], [-2, -1, 0, 3], atol=1e-6)


@pytest.mark.parametrize("scale", advantages.ADVANTAGE_SCALES)
@pytest.mark.parametrize("value", [0.1, 1.7, 2.0, 1 / 3])
def test_equal_rewards_give_exact_zeros(scale, value):
    rewards = np.full((2, 7), value, np.float32)
    assert (advantages.group_advantages(rewards, scale=scale) == 0).all()
    jitted = jax.jit(advantages.group_advantages, static_argnames="scale")
    assert (jitted(rewards, scale=scale) == 0).all()


@pytest.mark.parametrize("scale", advantages.ADVANTAGE_SCALES)
def test_inside_jit_as_on_the_host(scale):
    jitted = jax.jit(advantages.group_advantages, static_argnames="scale")
    expected = advantages.group_advantages(REWARDS, scale=scale)
    np.testing.assert_allclose(jitted(jnp.asarray(REWARDS), scale=scale), expected, atol=1e-5)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.lists(st.floats(0, 2, width=32), min_size=3, max_size=3), min_size=1, max_size=4),
    st.floats(-3, 3, width=32),
)
def test_shifting_a_group_changes_nothing_and_the_mean_is_zero(rewards, shift):
    rewards = np.array(rewards, np.float64)
    got = advantages.group_advantages(rewards, scale="group")
    np.testing.assert_allclose(got.mean(-1), 0, atol=1e-9)
    shifted = advantages.group_advantages(rewards + shift, scale="group")
    np.testing.assert_allclose(shifted, got, atol=1e-8)


def test_a_group_of_one():
    single = np.ones((3, 1), np.float32)
    with pytest.raises(ValueError, match="group_size"):
        advantages.group_advantages(single, scale="group")
    assert (advantages.group_advantages(single, scale="none") == 0).all()


@pytest.mark.usefixtures("unchecked")
def test_unknown_scale():
    with pytest.raises(ValueError, match="group, none"):
        advantages.group_advantages(REWARDS, scale="batch")


def test_zero_spread():
    assert advantages.zero_spread(REWARDS).tolist() == [False, True, False]
