"""What every attention kernel does, and the keys and values that it reads."""

from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int


@struct.dataclass
class KeyValues:
    """Keys and values, after rotation; `batch` is B or B G, with L in front outside of the scan."""

    keys: Float[Array, "*batch s n k"]
    values: Float[Array, "*batch s n k"]

    def write(self, new: "KeyValues", step: Int[Array, ""]) -> "KeyValues":
        """With the `step`-th token of every completion; both as [L, B, G, s, n, k]."""

        def put(into: Array, one: Array) -> Array:
            return jax.lax.dynamic_update_slice_in_dim(into, one.astype(into.dtype), step, axis=3)

        return jax.tree.map(put, self, new)

    def grown(self, length: int) -> "KeyValues":
        """With room for `length` tokens of every completion; as [L, B, G, s, n, k]."""

        def grow(x: Array) -> Array:
            return jnp.pad(x, [(0, length - x.shape[3] if axis == 3 else 0) for axis in range(6)])

        return jax.tree.map(grow, self)


@runtime_checkable
class Attention(Protocol):
    """A set of kernels, static under `jit`.

    All compute the softmax in float32, take `h` query heads for `n` key-value heads, of which it is
    a multiple, and scale logits by the root of a head's width `k`. They run on one device: over
    several they are called inside of `shard_map`.
    """

    def causal(self, queries: Float[Array, "B s h k"], cache: KeyValues) -> Float[Array, "B s h k"]:
        """Every token attends to itself and to those before it; padding stands at the end."""

    def suffixes(
        self,
        queries: Float[Array, "B G t h k"],
        prefix: KeyValues,
        length: Int[Array, " B"],
        suffix: KeyValues,
    ) -> Float[Array, "B G t h k"]:
        """Every token of G suffixes attends to their prefix, and causally to its own suffix.

        Args:
          queries: of the suffixes.
          prefix: [B, s, n, k], shared by the group.
          length: tokens of each prefix that are not padding.
          suffix: [B, G, t, n, k].
        """

    def patches(
        self,
        queries: Float[Array, "N p h k"],
        keys: Float[Array, "N p h k"],
        values: Float[Array, "N p h k"],
        window: Int[Array, "N p"],
        full: Bool[Array, ""],
        size: int,
    ) -> Float[Array, "N p h k"]:
        """Every patch attends to those of its window, or of its whole image.

        Args:
          queries: of N images of p patches.
          keys: likewise.
          values: likewise.
          window: index of each patch's window, in order; -1 for padding.
          full: whether to look past the windows.
          size: patches of the largest window.
        """
