"""The types and shapes that `lrt_jax.models` and `lrt_jax.rl` declare are checked in tests."""

import jax
import jax.numpy as jnp
import pytest
from jaxtyping import TypeCheckError

from lrt_jax.models.attention import KeyValues
from lrt_jax.models.layers import Rotation, rotate
from lrt_jax.rl.logprobs import take_logps

KEYS = jnp.zeros((2, 5, 1, 8))


def test_a_wrong_shape_is_told_in_models_and_in_rl():
    with pytest.raises(TypeCheckError, match="cos"):
        rotate(KEYS, Rotation.by(jnp.zeros((2, 5, 3))))  # of half a head's width, which is 4
    with pytest.raises(TypeCheckError, match="tokens"):
        take_logps(jnp.zeros((2, 3, 7)), jnp.zeros((2, 4), jnp.int32))


def test_a_wrong_type_is_told():
    with pytest.raises(TypeCheckError, match="tokens"):
        take_logps(jnp.zeros((2, 7)), jnp.zeros(2))


def test_a_pytree_is_checked_where_code_builds_it_and_not_where_jax_does():
    built = KeyValues(KEYS, KEYS)
    with pytest.raises(TypeCheckError, match="values"):
        KeyValues(KEYS, KEYS[:, :4])
    with pytest.raises(TypeCheckError, match="values"):
        built.replace(values=None)
    assert jax.tree.map(jnp.shape, built).keys == KEYS.shape
    assert jax.tree.map(lambda x: x[0, 0, 0], built).values.shape == (8,)


@pytest.mark.usefixtures("unchecked")
def test_the_check_can_be_left_out():
    assert KeyValues(KEYS, None).values is None


def test_it_is_back_after_that():
    with pytest.raises(TypeCheckError):
        KeyValues(KEYS, None)
