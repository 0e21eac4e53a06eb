"""Attention over a sequence, inside windows, and over groups that share a prefix.

Softmax runs in float32 whatever the dtype of the operands.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

# Finite, so that a fully masked row (padding) gives a mean of values and never a NaN.
MASKED = -1e30


class KVSegment(NamedTuple):
    """Keys and values that a group's queries attend to, with a mask that broadcasts.

    Attributes:
      keys: [B, s, n, k] shared by the group, or [B, G, s, n, k] of each member.
      values: like `keys`.
      mask: bool, broadcastable to [B, G, t, s]; True where a query attends.
    """

    keys: Float[Array, "B *G s n k"]
    values: Float[Array, "B *G s n k"]
    mask: Bool[Array, "#B #G #t s"]


def causal_attention(
    queries: Float[Array, "B s h k"],
    keys: Float[Array, "B s n k"],
    values: Float[Array, "B s n k"],
    length: Int[Array, " B"],
) -> Float[Array, "B s h k"]:
    """Causal attention over right-padded rows of `length` tokens; `h` is a multiple of `n`."""
    return jax.nn.dot_product_attention(
        queries, keys, values, is_causal=True, key_value_seq_lengths=length
    )


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


def group_attention(
    queries: Float[Array, "B G t h k"], segments: list[KVSegment]
) -> Float[Array, "B G t h k"]:
    """One softmax over several segments, some of them shared by the group and never repeated.

    Heads stand before members: in that order every product below is a batched matrix product as it
    is, and the logits, by far the largest array, are never transposed.
    """
    batch, group, time, heads, dim = queries.shape
    kv_heads = segments[0].keys.shape[-2]
    queries = queries.reshape(batch, group, time, kv_heads, heads // kv_heads, dim)
    queries = jnp.transpose(queries, (0, 3, 1, 2, 4, 5))  # B n G t r k
    logits = jnp.concatenate([_segment_logits(queries, segment) for segment in segments], axis=-1)
    weights = jax.nn.softmax(logits, axis=-1).astype(queries.dtype)
    ends = [sum(s.keys.shape[-3] for s in segments[: i + 1]) for i in range(len(segments))]
    pieces = jnp.split(weights, ends[:-1], axis=-1)
    out = sum(
        jnp.einsum(f"BnGtrs,{_axes(segment)}->BnGtrk", w, _heads_first(segment.values))
        for w, segment in zip(pieces, segments, strict=True)
    )
    return jnp.transpose(out, (0, 2, 3, 1, 4, 5)).reshape(batch, group, time, heads, dim)


def _segment_logits(
    queries: Float[Array, "B n G t r k"], segment: KVSegment
) -> Float[Array, "B n G t r s"]:
    logits = jnp.einsum(
        f"BnGtrk,{_axes(segment)}->BnGtrs",
        queries,
        _heads_first(segment.keys),
        preferred_element_type=jnp.float32,
    )
    mask = jnp.broadcast_to(segment.mask, (*(1,) * (4 - segment.mask.ndim), *segment.mask.shape))
    mask = mask[:, None, :, :, None, :]  # over heads
    return jnp.where(mask, logits * queries.shape[-1] ** -0.5, MASKED)


def _heads_first(x: Float[Array, "B *G s n k"]) -> Float[Array, "B n *G s k"]:
    return jnp.moveaxis(x, -2, 1)


def _axes(segment: KVSegment) -> str:
    return "Bnsk" if segment.keys.ndim == 4 else "BnGsk"
