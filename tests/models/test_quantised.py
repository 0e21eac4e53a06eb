"""Weights in int8: how far they are off, and which they are."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import qwix
from flax import traverse_util
from flax.linen import dtypes

from lrt_jax import models
from lrt_jax.models import matrix_axes, quantised_params, quantised_paths
from lrt_jax.models.quantised import promote_dtype, quantised
from tests.models.toy_family import FAMILY, Toy, ToyConfig


def weights(*shape: int) -> jax.Array:
    """Of channels whose sizes differ a thousandfold."""
    rng = np.random.default_rng(0)
    return jnp.float32(rng.normal(size=shape) * 10 ** rng.uniform(-3, 0, shape[-1]))


@pytest.mark.parametrize("shape, inputs", [((3, 64, 4, 8), (1,)), ((3, 4, 8, 64), (1, 2))])
def test_a_weight_is_off_by_half_of_its_own_channel_s_scale_at_most(shape, inputs):
    weight = weights(*shape)
    found = quantised(weight, inputs)
    assert found.qvalue.dtype == "int8" and found.scale.dtype == "float32"
    assert found.scale.shape == tuple(1 if i in inputs else n for i, n in enumerate(shape))
    largest = np.abs(weight).max(axis=inputs, keepdims=True)
    np.testing.assert_allclose(found.scale, largest / 127, rtol=1e-6)
    off = np.abs(qwix.dequantize(found) - weight) / found.scale
    assert 0.49 < off.max() < 0.5 + 1e-4


def test_the_largest_weight_of_every_channel_is_127_with_its_sign():
    """At 127.5 scales it would round to 128, which is no int8."""
    weight = weights(64, 5000)
    found = np.asarray(quantised(weight, (0,)).qvalue).astype(int)
    at = np.abs(weight).argmax(axis=0)[None]
    largest = np.take_along_axis(found, at, axis=0)
    signs = np.sign(np.take_along_axis(np.asarray(weight), at, axis=0))
    np.testing.assert_array_equal(largest, 127 * signs)


def test_a_channel_of_zeros_stays_zero():
    np.testing.assert_array_equal(qwix.dequantize(quantised(jnp.zeros((4, 2)), (0,))), 0)


def test_what_is_not_quantised_is_promoted_as_flax_does():
    arrays = jnp.ones(3, jnp.bfloat16), jnp.ones(3), None
    for dtype in (jnp.float32, jnp.bfloat16):
        got, wanted = (
            promote_dtype(*arrays, dtype=dtype),
            dtypes.promote_dtype(*arrays, dtype=dtype),
        )
        assert [x if x is None else x.dtype for x in got] == [
            x if x is None else x.dtype for x in wanted
        ]


def test_matrices_of_the_decoder_s_layers_are_in_int8_and_nothing_else(both):
    model = both.model.copy(dtype=jnp.bfloat16)
    copy = traverse_util.flatten_dict(quantised_params(model, both.params), sep="/")
    found = {path for path, leaf in copy.items() if isinstance(leaf, qwix.QArray)}
    layer = ["q", "k", "v", "o", "mlp/gate", "mlp/up", "mlp/down"]
    assert found == {f"decoder/layers/{name}/kernel" for name in layer} == quantised_paths(model)
    assert {copy[path].dtype.name for path in copy.keys() - found} == {"bfloat16"}
    axes = matrix_axes(model)
    for path in found:
        inputs, _ = axes[path]
        scales = copy[path].scale.shape
        assert {scales[axis] for axis in inputs} == {1} and scales[0] == copy[path].shape[0]


def test_a_model_whose_layers_take_none_is_refused(monkeypatch):
    monkeypatch.setattr(models, "family", lambda config: FAMILY)
    model = Toy(ToyConfig(vocab_size=8, hidden_size=4, image_token_id=3))
    with pytest.raises(ValueError, match="sampling.weights: no layer of toy takes int8; take full"):
        quantised_paths(model)
