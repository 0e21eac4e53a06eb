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

from lrt_jax.models.attention.api import KeyValues


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

    def suffixes(
        self,
        queries: Float[Array, "B G t h k"],
        prefix: KeyValues,
        length: Int[Array, " B"],
        suffix: KeyValues,
    ) -> Float[Array, "B G t h k"]:
        """See `Attention.suffixes`."""
        (batch, group, time), before = queries.shape[:3], prefix.keys.shape[1]

        def joined(prefix, suffix):
            shape = (batch, group, *prefix.shape[1:])
            both = [jnp.broadcast_to(prefix[:, None], shape), suffix]
            return _flat(jnp.concatenate(both, axis=2))

        both = jax.tree.map(joined, prefix, suffix)
        in_prefix = jnp.arange(before) < length[:, None, None, None]
        in_prefix = jnp.broadcast_to(in_prefix, (batch, group, time, before))
        in_suffix = jnp.broadcast_to(np.tri(time, dtype=bool), (batch, group, time, time))
        seen = _flat(jnp.concatenate([in_prefix, in_suffix], axis=-1))
        out = self._attend(_flat(queries), both.keys, both.values, mask=seen[:, None])
        return out.reshape(queries.shape)

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
