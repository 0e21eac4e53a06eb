"""Attention as XLA compiles it on any platform.

What is masked is no work where its place is known beforehand: causal attention goes by blocks, and
windows cost as much as there are patches.
"""

import dataclasses
import functools
import operator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from lrt_jax.models.attention.api import GroupSizes, KeyValues

# Finite, so that a fully masked row (padding) gives a mean of values and never a NaN.
MASKED = -1e30
BLOCKS = 4  # of queries in causal attention; the first reads a quarter of the keys, and so on


class KVSegment(NamedTuple):
    """Keys and values that a group's queries attend to, with a mask that broadcasts.

    Attributes:
      cache: [B, s, n, k] shared by the group, or [B, G, s, n, k] of each member.
      mask: bool, broadcastable to [B, G, t, s]; True where a query attends.
    """

    cache: KeyValues
    mask: Bool[Array | np.ndarray, "*#b s"]


@dataclasses.dataclass(frozen=True)
class XLA:
    """See `Attention`."""

    def causal(self, queries: Float[Array, "B s h k"], cache: KeyValues) -> Float[Array, "B s h k"]:
        """See `Attention.causal`."""
        time = queries.shape[1]
        step = -(-time // BLOCKS)
        out = []
        for start in range(0, time, step):
            end = min(start + step, time)
            seen = np.arange(end) <= np.arange(start, end)[:, None]
            before = jax.tree.map(lambda x, end=end: x[:, :end], cache)
            out.append(merged_attention(queries[:, None, start:end], [KVSegment(before, seen)]))
        return jnp.concatenate(out, axis=2)[:, 0]

    def group(
        self,
        queries: Float[Array, "B r h k"],
        cache: KeyValues,
        length: Int[Array, " B"],
        sizes: GroupSizes,
    ) -> Float[Array, "B r h k"]:
        """See `Attention.group`.

        The suffixes of one group after the other, so that their logits, by far the largest array,
        stay in a cache until they are used; they are computed anew in the backward pass.
        """
        causal = np.tri(sizes.suffix, dtype=bool)
        before = KeyValues(*(sizes.parts(x)[0] for x in (cache.keys, cache.values)))
        own = KeyValues(*(sizes.parts(x)[1] for x in (cache.keys, cache.values)))
        prefix, suffixes = sizes.parts(queries)

        @jax.checkpoint
        def one(group):
            queries, before, length, own = jax.tree.map(lambda x: x[None], group)
            seen = (jnp.arange(sizes.prefix) < length[:, None])[:, None, None]
            segments = [KVSegment(before, seen), KVSegment(own, causal)]
            return merged_attention(queries, segments)[0]

        out = jax.lax.map(one, (suffixes, before, length, own))
        return sizes.row(self.causal(prefix, before), out)

    def patches(
        self,
        queries: Float[Array, "N p h k"],
        keys: Float[Array, "N p h k"],
        values: Float[Array, "N p h k"],
        window: Int[Array, "N p"],
        full: Bool[Array, ""],
        size: int,
    ) -> Float[Array, "N p h k"]:
        """See `Attention.patches`."""

        def across_image(q, k, v):
            return segment_attention(q, k, v, jnp.minimum(window, 0))

        def inside_windows(q, k, v):
            return window_attention(q, k, v, window, window=size)

        return jax.lax.cond(full, across_image, inside_windows, queries, keys, values)


def merged_attention(
    queries: Float[Array, "B G t h k"], segments: list[KVSegment]
) -> Float[Array, "B G t h k"]:
    """One softmax over several segments, some of them shared by the group and never repeated.

    Each segment's logits are a matrix product of their own and are never joined: sums and maxima
    are. Heads stand before members: in that order every product below is a batched matrix product
    as it is, and no logits are transposed.
    """
    batch, group, time, heads, dim = queries.shape
    kv_heads = segments[0].cache.keys.shape[-2]
    queries = queries.reshape(batch, group, time, kv_heads, heads // kv_heads, dim)
    queries = jnp.transpose(queries, (0, 3, 1, 2, 4, 5))  # B n G t r k
    logits = [_segment_logits(queries, segment) for segment in segments]
    largest = functools.reduce(jnp.maximum, [x.max(axis=-1, keepdims=True) for x in logits])
    weights = [jnp.exp(x - jax.lax.stop_gradient(largest)) for x in logits]
    total = functools.reduce(operator.add, [x.sum(axis=-1, keepdims=True) for x in weights])
    means = [_weighted(w, segment) for w, segment in zip(weights, segments, strict=True)]
    out = (functools.reduce(operator.add, means) / total).astype(queries.dtype)
    return jnp.transpose(out, (0, 2, 3, 1, 4, 5)).reshape(batch, group, time, heads, dim)


def segment_attention(
    queries: Float[Array, "N p h k"],
    keys: Float[Array, "N p h k"],
    values: Float[Array, "N p h k"],
    segment: Int[Array, "N p"],
) -> Float[Array, "N p h k"]:
    """Attention among the elements of equal `segment`, at a cost quadratic in `p`."""
    mask = segment[:, None, :, None] == segment[:, None, None, :]
    return jax.nn.dot_product_attention(queries, keys, values, mask=mask)


def window_attention(
    queries: Float[Array, "N p h k"],
    keys: Float[Array, "N p h k"],
    values: Float[Array, "N p h k"],
    segment: Int[Array, "N p"],
    *,
    window: int,
) -> Float[Array, "N p h k"]:
    """Attention among the elements of equal `segment`, at a cost linear in `p`.

    Segments are runs of at most `window` neighbours, so one that touches a chunk of `window`
    elements ends at the latest in the next and began at the earliest in the one before: every chunk
    attends to three chunks, whatever the shapes of the windows.

    Raises:
      ValueError: `p` is not a multiple of `window`.
    """
    rows, patches = segment.shape
    if patches % window:
        raise ValueError(f"{patches} patches are not a multiple of the window of {window}")
    chunks = patches // window

    def split(x):
        return x.reshape(rows, chunks, window, *x.shape[2:])

    def with_neighbours(x, fill):
        edge = jnp.full_like(x[:, :1], fill)
        before = jnp.concatenate([edge, x[:, :-1]], axis=1)
        after = jnp.concatenate([x[:, 1:], edge], axis=1)
        return jnp.concatenate([before, x, after], axis=2)

    def merge(x):
        return x.reshape(rows * chunks, *x.shape[2:])

    queries, keys, values, segment = (split(x) for x in (queries, keys, values, segment))
    nobody = jnp.iinfo(segment.dtype).min
    mask = segment[..., :, None] == with_neighbours(segment, nobody)[..., None, :]
    out = jax.nn.dot_product_attention(
        merge(queries),
        merge(with_neighbours(keys, 0)),
        merge(with_neighbours(values, 0)),
        mask=merge(mask)[:, None],
    )
    return out.reshape(rows, patches, *out.shape[2:])


def _segment_logits(
    queries: Float[Array, "B n G t r k"], segment: KVSegment
) -> Float[Array, "B n G t r s"]:
    logits = jnp.einsum(
        f"BnGtrk,{_axes(segment.cache.keys)}->BnGtrs",
        queries,
        _heads_first(segment.cache.keys),
        preferred_element_type=jnp.float32,
    )
    mask = jnp.asarray(segment.mask)
    mask = mask.reshape(*(1,) * (4 - mask.ndim), *mask.shape)
    mask = mask[:, None, :, :, None, :]  # over heads
    return jnp.where(mask, logits * queries.shape[-1] ** -0.5, MASKED)


def _weighted(
    weights: Float[Array, "B n G t r s"], segment: KVSegment
) -> Float[Array, "B n G t r k"]:
    """Sum of a segment's values, in float32."""
    return jnp.einsum(
        f"BnGtrs,{_axes(segment.cache.values)}->BnGtrk",
        weights.astype(segment.cache.values.dtype),
        _heads_first(segment.cache.values),
        preferred_element_type=jnp.float32,
    )


def _heads_first(x: Float[Array, "B *G s n k"]) -> Float[Array, "B n *G s k"]:
    return jnp.moveaxis(x, -2, 1)


def _axes(x: Float[Array, "B *G s n k"]) -> str:
    return "Bnsk" if x.ndim == 4 else "BnGsk"
