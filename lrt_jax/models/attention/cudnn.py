"""Attention on NVIDIA GPUs by cuDNN, through `jax.nn.dot_product_attention`; in bfloat16 only.

It gives the sum of a softmax no gradient, so that attention to a prefix and to a suffix cannot be
merged afterwards: each suffix reads a copy of its prefix.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from lrt_jax.models.attention.api import GroupSizes, KeyValues


@dataclasses.dataclass(frozen=True)
class CuDNN:
    """See `Attention`.

    Attributes:
      implementation: of `jax.nn.dot_product_attention`; `xla` is for tests, on any platform.
    """

    implementation: str = "cudnn"

    def causal(self, queries: Float[Array, "B s h k"], cache: KeyValues) -> Float[Array, "B s h k"]:
        """See `Attention.causal`."""
        return self._attend(queries, cache.keys, cache.values, is_causal=True)

    def group(
        self,
        queries: Float[Array, "B r h k"],
        cache: KeyValues,
        length: Int[Array, " B"],
        sizes: GroupSizes,
    ) -> Float[Array, "B r h k"]:
        """See `Attention.group`."""
        prefix, suffixes = sizes.parts(queries)

        def joined(x):
            before, own = sizes.parts(x)
            before = jnp.broadcast_to(before[:, None], (*own.shape[:2], *before.shape[1:]))
            return before[:, 0], _flat(jnp.concatenate([before, own], axis=2))

        (prefix_keys, keys), (prefix_values, values) = joined(cache.keys), joined(cache.values)
        shape = (*suffixes.shape[:3], sizes.prefix)
        before = jnp.arange(sizes.prefix) < length[:, None, None, None]
        own = jnp.broadcast_to(np.tri(sizes.suffix, dtype=bool), (*shape[:3], sizes.suffix))
        seen = jnp.concatenate([jnp.broadcast_to(before, shape), own], axis=-1)
        out = self._attend(_flat(suffixes), keys, values, mask=_flat(seen)[:, None])
        causal = self.causal(prefix, KeyValues(prefix_keys, prefix_values))
        return sizes.row(causal, out.reshape(suffixes.shape))

    def patches(
        self,
        queries: Float[Array, "N p h k"],
        keys: Float[Array, "N p h k"],
        values: Float[Array, "N p h k"],
        window: Int[Array, "N p"],
        full: Bool[Array, ""],
        size: int,
    ) -> Float[Array, "N p h k"]:
        """See `Attention.patches`. Windows are masked."""
        del size
        segment = jnp.where(full, jnp.minimum(window, 0), window)
        seen = segment[:, None, :, None] == segment[:, None, None, :]
        return self._attend(queries, keys, values, mask=seen)

    @property
    def _attend(self):
        return functools.partial(jax.nn.dot_product_attention, implementation=self.implementation)


def _flat(x: Array) -> Array:
    """[B, G, ...] to [B G, ...]."""
    return x.reshape(-1, *x.shape[2:])
