"""What every attention kernel does, and the keys and values that it reads."""

from typing import NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int, Shaped


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


class GroupSizes(NamedTuple):
    """A prefix and the suffixes that continue it, one after the other in a row.

    Attributes:
      prefix: tokens of the prefix, padding included.
      group: suffixes.
      suffix: tokens of each.
    """

    prefix: int
    group: int
    suffix: int

    def parts(self, x: Shaped[Array, "B r ..."]) -> tuple[Array, Array]:
        """The prefix [B, s, ...] and the suffixes [B, G, t, ...] of rows."""
        suffixes = x[:, self.prefix :]
        shape = (x.shape[0], self.group, self.suffix, *x.shape[2:])
        return x[:, : self.prefix], suffixes.reshape(shape)

    def row(
        self, prefix: Shaped[Array, "B s ..."], suffixes: Shaped[Array, "B G t ..."]
    ) -> Shaped[Array, "B r ..."]:
        """Inverse of `parts`."""
        suffixes = suffixes.reshape(prefix.shape[0], -1, *prefix.shape[2:])
        return jnp.concatenate([prefix, suffixes], axis=1)


@runtime_checkable
class Attention(Protocol):
    """A set of kernels, static under `jit`.

    All compute the softmax in float32, take `h` query heads for `n` key-value heads, of which it is
    a multiple, and scale logits by the root of a head's width `k`. They run on one device: over
    several they are called inside of `shard_map`.
    """

    def causal(self, queries: Float[Array, "B s h k"], cache: KeyValues) -> Float[Array, "B s h k"]:
        """Every token attends to itself and to those before it; padding stands at the end."""

    def group(
        self,
        queries: Float[Array, "B r h k"],
        cache: KeyValues,
        length: Int[Array, " B"],
        sizes: GroupSizes,
    ) -> Float[Array, "B r h k"]:
        """Causal attention of a prefix, and of the suffixes that continue it.

        A token of a suffix attends to the prefix, and to its own suffix up to itself.

        Args:
          queries: of the prefix and of the suffixes, one after the other in one row.
          cache: [B, r, n, k], likewise.
          length: tokens of each prefix that are not padding.
          sizes: of the group.
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
