"""What tower and decoder share runs in float32 where bfloat16 would lose what matters."""

import jax.numpy as jnp
import numpy as np
import pytest

from lrt_jax.models.layers import RMSNorm, Rotation, rotate


@pytest.mark.parametrize("size", [1.0, 1e-3, 300.0])
def test_norms_of_bfloat16_are_rounded_once(size):
    """Mean square, its root and the quotient are float32; transformers scales in the input's."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(size * rng.normal(1, 2, (4, 96)), jnp.bfloat16)
    scale = jnp.asarray(rng.normal(1, 0.1, 96), jnp.float32)
    high = np.asarray(x, np.float64)
    root = np.sqrt(np.mean(high**2, axis=-1, keepdims=True) + 1e-6)
    normed = jnp.asarray(high / root, jnp.float32).astype(jnp.bfloat16)
    got = RMSNorm().apply({"params": {"scale": scale}}, x)
    assert got.dtype == jnp.bfloat16
    np.testing.assert_array_equal(got, scale.astype(jnp.bfloat16) * normed)


def test_rotations_of_bfloat16_are_rounded_once():
    """An angle of 257 turns by 257, and not by the 256 that bfloat16 makes of it."""
    rng = np.random.default_rng(1)
    x = jnp.asarray(rng.normal(size=(5, 2, 8)), jnp.bfloat16)
    angles = np.array([[257.0, 1.0, 0.5, 0.001]] * 5, np.float32)
    high = np.asarray(x, np.float64)
    turned = (high[..., :4] + 1j * high[..., 4:]) * np.exp(1j * angles.astype(np.float64))[:, None]
    wanted = np.concatenate([turned.real, turned.imag], axis=-1)
    got = np.asarray(rotate(x, Rotation.by(jnp.asarray(angles))), np.float64)
    np.testing.assert_allclose(got, wanted, rtol=2**-8, atol=1e-5)  # half of bfloat16's last bit
