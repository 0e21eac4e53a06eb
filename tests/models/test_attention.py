"""Windows at linear cost, and shared prefixes, are the same attention."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lrt_jax.models.attention import (
    KVSegment,
    causal_attention,
    group_attention,
    segment_attention,
    window_attention,
)


def normal(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


def test_windows_equal_the_quadratic_mask():
    sizes = [16, 3, 16, 16, 5, 1, 16, 7]  # runs that start and end anywhere
    window = np.repeat(np.arange(len(sizes)), sizes)
    segment = np.full((2, 96), -1, np.int32)
    segment[0, : len(window)] = window
    segment[1, :32] = np.repeat([0, 1], 16)
    segment = jnp.asarray(segment)
    q, k, v = (normal(i, 2, 96, 2, 8) for i in range(3))
    wanted = segment_attention(q, k, v, segment)
    got = window_attention(q, k, v, segment, window=16)
    seen = segment >= 0
    np.testing.assert_allclose(got[seen], wanted[seen], atol=2e-6)
    assert np.isfinite(got).all()


def test_windows_cost_grows_linearly():
    def flops(patches):
        args = [jax.ShapeDtypeStruct((1, patches, 2, 8), jnp.float32)] * 3
        segment = jax.ShapeDtypeStruct((1, patches), jnp.int32)
        run = jax.jit(lambda *a: window_attention(*a, window=16))
        return run.lower(*args, segment).compile().cost_analysis()["flops"]

    assert flops(1024) == pytest.approx(4 * flops(256), rel=0.01)


def test_windows_need_whole_chunks():
    x = normal(0, 1, 24, 1, 4)
    with pytest.raises(ValueError, match="24 patches are not a multiple of the window of 16"):
        window_attention(x, x, x, jnp.zeros((1, 24), jnp.int32), window=16)


def test_group_equals_each_sequence_alone():
    batch, group, time, heads, kv_heads, dim, prefix = 2, 3, 5, 4, 2, 8, 7
    length = jnp.array([7, 4])
    q = normal(0, batch, group, time, heads, dim)
    shared = [normal(i, batch, prefix, kv_heads, dim) for i in (1, 2)]
    own = [normal(i, batch, group, time, kv_heads, dim) for i in (3, 4)]
    seen = (jnp.arange(prefix) < length[:, None])[:, None, None]
    got = group_attention(q, [KVSegment(*shared, seen), KVSegment(*own, jnp.tri(time, dtype=bool))])
    for b in range(batch):
        for g in range(group):
            n = int(length[b])
            k, v = (
                jnp.concatenate([s[b, :n], o[b, g]])[None] for s, o in zip(shared, own, strict=True)
            )
            padded = jnp.concatenate([jnp.zeros((n, heads, dim)), q[b, g]])[None]
            wanted = causal_attention(padded, k, v, jnp.array([n + time]))[0, n:]
            np.testing.assert_allclose(got[b, g], wanted, atol=2e-6)
