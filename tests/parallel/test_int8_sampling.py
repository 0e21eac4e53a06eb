"""A copy with weights in int8 is the same on any mesh, and sampled from as what it stands for."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
import qwix
from flax import traverse_util
from jax.sharding import PartitionSpec

from lrt_jax.models import param_shardings, quantised_shardings
from lrt_jax.models.qwen2_5_vl.sharding import RULES
from lrt_jax.parallel.mesh import make_mesh
from lrt_jax.rl.rollout import Rollout, SamplingConfig
from tests.parallel import pieces
from tests.parallel.compiled_text import collectives, parse
from tests.parallel.pieces import GROUP, make_pieces

MESHES = {
    "one device": {"devices": jax.devices()[:1]},
    "fsdp": {"fsdp": 4},
    "fsdp and tensor": {"fsdp": 2, "tensor": 2},
    "attn_dp and tensor": {"attn_dp": 2, "tensor": 2},
}
MLP = RULES["mlp"]["sample"]
SAMPLING = SamplingConfig(max_tokens=6, stop_ids=(7,))


@functools.cache
def of_mesh(name: str) -> tuple[pieces.Pieces, dict]:
    """A model on a mesh, of the same parameters on each, and its copy."""
    made = make_pieces(make_mesh(**MESHES[name]))
    if name != "one device":
        params = jax.device_get(of_mesh("one device")[0].params)
        shardings = param_shardings(made.model, made.mesh, "train")
        made = dataclasses.replace(made, params=jax.device_put(params, shardings))
    return made, made.engine.sampler_params(made.params, "int8")


def is_quantised(leaf) -> bool:
    return isinstance(leaf, qwix.QArray)


def dequantised(copy: dict) -> dict:
    """The weights that a copy stands for, all in float32."""
    return jax.tree.map(
        lambda x: qwix.dequantize(x) if is_quantised(x) else x, copy, is_leaf=is_quantised
    )


def sampled(made: pieces.Pieces, params: dict) -> Rollout:
    features = made.engine.encode_images(params, made.batch)[None]
    drawn = made.engine.sample(params, made.batch, features, GROUP, SAMPLING, 0, 1)
    return jax.device_get(drawn)


@pytest.mark.parametrize("name", MESHES)
def test_samples_are_those_of_the_weights_that_it_stands_for(name):
    made, copy = of_mesh(name)
    got, wanted = sampled(made, copy), sampled(made, dequantised(copy))
    np.testing.assert_array_equal(got.tokens, wanted.tokens)
    np.testing.assert_allclose(got.logps, wanted.logps, rtol=1e-6, atol=1e-6)
    of_training = sampled(made, made.engine.sampler_params(made.params))
    assert np.abs(got.logps - of_training.logps).max() > 1e-4  # so that others would be seen


@pytest.mark.parametrize("name", [*MESHES][1:])
def test_every_mesh_has_the_same_copy_and_samples(name):
    (alone, one), (made, copy) = of_mesh("one device"), of_mesh(name)
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(copy), jax.device_get(one))
    got, wanted = sampled(made, copy), sampled(alone, one)
    np.testing.assert_array_equal(got.tokens, wanted.tokens)
    np.testing.assert_allclose(got.logps, wanted.logps, atol=1e-5)


def test_scales_live_where_their_channels_do():
    made, copy = of_mesh("fsdp and tensor")
    wanted = quantised_shardings(made.model, made.mesh, "sample")
    same = jax.tree.map(lambda x, y: x.sharding.is_equivalent_to(y, x.ndim), copy, wanted)
    assert all(jax.tree.leaves(same))
    layers = traverse_util.flatten_dict(wanted["decoder"]["layers"], sep="/")
    of_heads, of_features = (PartitionSpec(None, None, *x) for x in (("tensor", None), (MLP,)))
    whole = PartitionSpec(None, None, None)
    for name, weight, scale in (
        ("q/kernel", of_heads, of_heads),
        ("o/kernel", PartitionSpec(None, "tensor", None, None), PartitionSpec(*whole, None)),
        ("mlp/up/kernel", of_features, of_features),
        ("mlp/down/kernel", PartitionSpec(None, MLP, None), whole),
    ):
        assert [layers[name].qvalue.spec, layers[name].scale.spec] == [weight, scale], name


@pytest.mark.parametrize("name", [*MESHES][1:])
def test_weights_are_gathered_in_int8(name):
    """Each device makes int8 of its share, before the shares are gathered."""
    made, _ = of_mesh(name)
    text = made.engine._quantise.lower(made.params).compile().as_text()
    flat = traverse_util.flatten_dict(made.params["decoder"]["layers"], sep="/")
    matrices = [leaf.size for path, leaf in flat.items() if path.endswith("kernel")]
    divided = made.mesh.shape["tensor"], made.mesh.shape["tensor"] * made.mesh.shape["attn_dp"]
    sizes = {size // n for size in matrices for n in (1, *divided)}
    moved = [x for lines in parse(text).values() for x in collectives(lines)]
    of_matrices = [x for x in moved if x.kind == "all-gather" and x.largest in sizes]
    assert of_matrices and all(" = s8[" in x.line for x in of_matrices), moved
