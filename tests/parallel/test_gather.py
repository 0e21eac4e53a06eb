"""Gradients of gathered weights come back as shards, the same bits as those of `all_gather`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec

from lrt_jax.models import per_device

ROWS = INNER, OUTER = "fsdp", "tensor"


@pytest.mark.parametrize(
    "shape, spec",
    [
        ((8, 12), (OUTER, INNER)),
        ((8, 12), (INNER, OUTER)),
        ((4, 3, 8), (OUTER, None, INNER)),
        ((8, 4, 3), (INNER, OUTER, None)),
    ],
)
def test_gradients_are_added_up_and_scattered_along_any_axis(shape, spec, monkeypatch):
    mesh = Mesh(np.array(jax.devices()).reshape(2, 2), ROWS)
    spec, rng = PartitionSpec(*spec), np.random.default_rng(0)
    weights = rng.normal(size=shape).astype(np.float32)
    slopes = rng.normal(size=(4, *shape)).astype(np.float32)  # of each device

    def local(x, slope):
        def value(x):
            return jnp.sum(per_device.gather(x, spec, jnp.float32) * slope[0])

        return jax.grad(value)(x)

    def gradient():
        specs = {"in_specs": (spec, PartitionSpec(ROWS)), "out_specs": spec}
        run = jax.jit(jax.shard_map(local, mesh=mesh, check_vma=False, **specs))
        return run(weights, slopes)

    found = gradient()
    np.testing.assert_allclose(found, slopes.sum(axis=0), atol=1e-5)

    def plain(x, name, axis):
        return jax.lax.all_gather(x, name, axis=axis, tiled=True)

    monkeypatch.setattr(per_device, "_gather_axis", plain)
    jax.clear_caches()
    np.testing.assert_array_equal(found, gradient())
