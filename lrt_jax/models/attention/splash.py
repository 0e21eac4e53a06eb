"""Attention on TPUs by JAX's splash kernels (`jax.experimental.pallas.ops.tpu`).

They read and write a block of queries and keys at a time, so that no logits are stored, and pass
over blocks that are masked as a whole.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu.splash_attention import (
    splash_attention_kernel,
    splash_attention_mask,
)
from jaxtyping import Array, Bool, Float, Int

from lrt_jax.models.attention.api import KeyValues

LANES = 128  # blocks are multiples of it
LARGEST_BLOCK = 640  # a side; the backward kernels keep four squares of it in a core's memory
SHORT = 640  # longer sequences are padded to whole pairs of `LANES`, so that blocks are not small

SegmentIds = splash_attention_kernel.SegmentIds
Mask = splash_attention_mask.Mask


@dataclasses.dataclass(frozen=True)
class Splash:
    """See `Attention`.

    Attributes:
      interpret: run the kernels step by step on any platform, to test them.
    """

    interpret: bool = False

    def causal(self, queries: Float[Array, "B s h k"], cache: KeyValues) -> Float[Array, "B s h k"]:
        """See `Attention.causal`."""
        length = _padded(queries.shape[1])
        queries, keys, values = (_pad(x, length) for x in (queries, cache.keys, cache.values))
        kernel = self._kernel(splash_attention_mask.CausalMask((length, length)), queries)
        out = jax.vmap(kernel)(_scaled(queries), _heads_first(keys), _heads_first(values))
        return _heads_last(out)[:, : cache.keys.shape[1]]

    def suffixes(
        self,
        queries: Float[Array, "B G t h k"],
        prefix: KeyValues,
        length: Int[Array, " B"],
        suffix: KeyValues,
    ) -> Float[Array, "B G t h k"]:
        """See `Attention.suffixes`. Each suffix reads a copy of its prefix."""
        (batch, group, time), before = queries.shape[:3], prefix.keys.shape[1]
        q_length, kv_length = _padded(time), _padded(before + time)

        def joined(prefix, suffix):
            shape = (batch, group, *prefix.shape[1:])
            both = [jnp.broadcast_to(prefix[:, None], shape), suffix]
            return _heads_first(_pad(jnp.concatenate(both, axis=2), kv_length, axis=2))

        both = jax.tree.map(joined, prefix, suffix)
        mask = splash_attention_mask.CausalMask((q_length, kv_length), offset=before)
        at = jnp.arange(kv_length)
        is_padding = (at >= length[:, None]) & (at < before)
        segments = SegmentIds(jnp.zeros((batch, q_length), jnp.int32), is_padding.astype(jnp.int32))
        queries = _pad(queries, q_length, axis=2)
        kernel = self._kernel(mask, queries)
        of_group = jax.vmap(kernel, in_axes=(0, 0, 0, None))
        out = jax.vmap(of_group)(_scaled(queries), both.keys, both.values, segments)
        return _heads_last(out)[:, :, :time]

    def patches(
        self,
        queries: Float[Array, "N p h k"],
        keys: Float[Array, "N p h k"],
        values: Float[Array, "N p h k"],
        window: Int[Array, "N p"],
        full: Bool[Array, ""],
        size: int,
    ) -> Float[Array, "N p h k"]:
        """See `Attention.patches`. Windows are masked, which costs less than to copy them out."""
        del size
        patches = window.shape[1]
        length = _padded(patches)
        segment = jnp.where(full, jnp.minimum(window, 0), window)
        segment = jnp.pad(segment, [(0, 0), (0, length - patches)], constant_values=-1)
        queries, keys, values = (_pad(x, length) for x in (queries, keys, values))
        kernel = self._kernel(splash_attention_mask.FullMask((length, length)), queries)
        segments = SegmentIds(segment, segment)
        out = jax.vmap(kernel)(_scaled(queries), _heads_first(keys), _heads_first(values), segments)
        return _heads_last(out)[:, :patches]

    def _kernel(self, mask: Mask, queries: Float[Array, "*b t h k"]):
        """The kernel of one sequence, its heads in front."""
        q, kv = (_block(length) for length in mask.shape)
        sizes = splash_attention_kernel.BlockSizes(
            block_q=q,
            block_kv=kv,
            block_kv_compute=kv,
            block_q_dkv=q,
            block_kv_dkv=kv,
            block_kv_dkv_compute=kv,
            block_q_dq=q,
            block_kv_dq=kv,
        )
        return splash_attention_kernel.make_splash_mha(
            splash_attention_mask.MultiHeadMask([mask] * queries.shape[-2]),
            block_sizes=sizes,
            head_shards=1,
            q_seq_shards=1,
            interpret=self.interpret,
        )


def _padded(length: int) -> int:
    """The length of a sequence that blocks fill up."""
    unit = LANES if length <= SHORT else 2 * LANES
    return -(-length // unit) * unit


def _block(length: int) -> int:
    """The largest block that divides a length."""
    return max(x for x in range(LANES, LARGEST_BLOCK + 1, LANES) if length % x == 0)


def _pad(x: Float[Array, "*b s h k"], length: int, axis: int = 1) -> Float[Array, "*b S h k"]:
    widths = [(0, 0)] * x.ndim
    widths[axis] = (0, length - x.shape[axis])
    return jnp.pad(x, widths)


def _scaled(queries: Float[Array, "*b t h k"]) -> Float[Array, "*b h t k"]:
    """The kernels leave it to their caller to scale the logits."""
    return _heads_first(queries * jnp.asarray(queries.shape[-1] ** -0.5, queries.dtype))


def _heads_first(x: Float[Array, "*b s n k"]) -> Float[Array, "*b n s k"]:
    return jnp.swapaxes(x, -2, -3)


def _heads_last(x: Float[Array, "*b n s k"]) -> Float[Array, "*b s n k"]:
    return jnp.swapaxes(x, -2, -3)
