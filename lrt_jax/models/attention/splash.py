"""Attention on TPUs by JAX's splash kernels (`jax.experimental.pallas.ops.tpu`).

They read and write a block of queries and keys at a time, so that no logits are stored, and pass
over blocks that are masked as a whole.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.pallas.ops.tpu.splash_attention import (
    splash_attention_kernel,
    splash_attention_mask,
)
from jaxtyping import Array, Bool, Float, Int

from lrt_jax.models.attention.api import GroupSizes, KeyValues

LANES = 128  # blocks are multiples of it
LARGEST_BLOCK = 640  # a side; the backward kernels keep four squares of it in a core's memory
SHORT = 640  # longer sequences are padded to whole pairs of `LANES`, so that blocks are not small

SegmentIds = splash_attention_kernel.SegmentIds
Mask = splash_attention_mask.Mask


@dataclasses.dataclass(frozen=True)
class GroupMask(Mask):  # compared by its fields, as the kernels want it
    """Who attends to whom in the row of a group.

    Attributes:
      length: of the row, padding included.
      sizes: of the group.
    """

    length: int
    sizes: GroupSizes

    @property
    def shape(self) -> tuple[int, int]:
        return self.length, self.length

    def __getitem__(self, index: tuple[slice, slice]) -> Bool[np.ndarray, "q k"]:
        """A block of the mask, True where a query attends."""
        q, kv = (np.arange(self.length)[part] for part in index)
        q_suffix, kv_suffix = ((x - self.sizes.prefix) // self.sizes.suffix for x in (q, kv))
        sees = (kv < self.sizes.prefix) | (kv_suffix == q_suffix[:, None])
        return sees & (kv <= q[:, None])


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
        mask = splash_attention_mask.CausalMask((length, length))
        return self._attend(mask, queries, cache.keys, cache.values)

    def group(
        self,
        queries: Float[Array, "B r h k"],
        cache: KeyValues,
        length: Int[Array, " B"],
        sizes: GroupSizes,
    ) -> Float[Array, "B r h k"]:
        """See `Attention.group`."""
        padded = _padded(queries.shape[1])
        at = jnp.arange(padded)
        is_padding = (at >= length[:, None]) & (at < sizes.prefix)
        segments = SegmentIds(jnp.zeros(is_padding.shape, jnp.int32), is_padding.astype(jnp.int32))
        return self._attend(GroupMask(padded, sizes), queries, cache.keys, cache.values, segments)

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
        mask = splash_attention_mask.FullMask((length, length))
        return self._attend(mask, queries, keys, values, SegmentIds(segment, segment))

    def _attend(self, mask: Mask, queries, keys, values, *segments: SegmentIds):
        """Attention where the mask, which is of padded rows, and the segments allow it."""
        tokens = queries.shape[1]
        queries, keys, values = (_pad(x, mask.shape[0]) for x in (queries, keys, values))
        rows = (_scaled(queries), _heads_first(keys), _heads_first(values))
        out = jax.vmap(self._kernel(mask, queries))(*rows, *segments)
        return _heads_last(out)[:, :tokens]

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


def _pad(x: Float[Array, "b s h k"], length: int) -> Float[Array, "b {length} h k"]:
    return jnp.pad(x, [(0, 0), (0, length - x.shape[1]), (0, 0), (0, 0)])


def _scaled(queries: Float[Array, "*b t h k"]) -> Float[Array, "*b h t k"]:
    """The kernels leave it to their caller to scale the logits."""
    return _heads_first(queries * jnp.asarray(queries.shape[-1] ** -0.5, queries.dtype))


def _heads_first(x: Float[Array, "*b s n k"]) -> Float[Array, "*b n s k"]:
    return jnp.swapaxes(x, -2, -3)


def _heads_last(x: Float[Array, "*b n s k"]) -> Float[Array, "*b s n k"]:
    return jnp.swapaxes(x, -2, -3)
