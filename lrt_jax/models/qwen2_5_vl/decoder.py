"""The causal decoder: one block, driven by `prefill`, `decode` and `score_groups`.

A group is one prefix and G suffixes. The prefix is work done once: its keys and values are shared
by the group's members and never repeated.
"""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax.sharding import NamedSharding
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from lrt_jax.models.attention import (
    XLA,
    Attention,
    GroupSizes,
    KeyValues,
    KVSegment,
    merged_attention,
)
from lrt_jax.models.layers import (
    GatedMLP,
    RMSNorm,
    Rotation,
    constrain_batch,
    constrain_features,
    inverse_frequencies,
    rotate,
    scan_layers,
)
from lrt_jax.models.per_device import causal_by_heads, mlp_by_features, on_own_rows
from lrt_jax.models.quantised import promote_dtype
from lrt_jax.models.qwen2_5_vl.config import TextConfig
from lrt_jax.models.qwen2_5_vl.sharding import specs

on_own_rows_of_layers = on_own_rows(specs("decoder/layers/"))
MLP_SPECS = specs("decoder/layers/mlp/", "sample")


@struct.dataclass
class DecodePositions:
    """What a new token of each member is turned by and attends to, the same in all layers."""

    rotation: Rotation  # [B, 1, 1, f], the same for all members of a group
    prefix: Bool[Array, "B 1 1 s"]  # tokens of the prefix that are not padding
    suffix: Bool[Array, "1 t"]  # tokens that each member has had


@struct.dataclass
class GroupPositions:
    """Where the tokens of prefixes and suffixes in one row stand."""

    rotation: Rotation  # [B, r, f]
    length: Int[Array, " B"]  # tokens of each prefix that are not padding
    sizes: GroupSizes = struct.field(pytree_node=False)


class DecoderBlock(nn.Module):
    """Pre-norm grouped-query attention and gated MLP."""

    config: TextConfig
    dtype: DTypeLike
    sharding: NamedSharding | None
    attention: Attention

    def setup(self):
        c, options = self.config, dict(dtype=self.dtype, promote_dtype=promote_dtype)

        def heads(count):
            return nn.DenseGeneral((count, c.head_dim), **options)

        self.input_norm, self.post_norm = RMSNorm(c.rms_norm_eps), RMSNorm(c.rms_norm_eps)
        self.q, self.k, self.v = heads(c.num_heads), heads(c.num_kv_heads), heads(c.num_kv_heads)
        self.o = nn.DenseGeneral(c.hidden_size, axis=(-2, -1), use_bias=False, **options)
        self.mlp = GatedMLP(c.intermediate_size, False, self.dtype, self.sharding)

    @on_own_rows_of_layers
    def prefill(
        self, x: Float[Array, "B s d"], _: None, rotation: Rotation
    ) -> tuple[Float[Array, "B s d"], KeyValues]:
        """The prefix through one layer, leaving its keys and values."""
        q, cache = self._project(x, rotation)
        out = causal_by_heads(self.attention, self.sharding, q, cache)
        return self._finish(x, out), cache

    def decode(
        self,
        x: Float[Array, "B G 1 d"],
        caches: tuple[KeyValues, KeyValues],
        positions: DecodePositions,
    ) -> tuple[Float[Array, "B G 1 d"], KeyValues]:
        """One token of each member through one layer.

        Returns only the new token's keys and values: handing the updated cache back through the
        scan over layers would rewrite all of it for every token.
        """
        prefix_cache, suffix_cache = caches
        q, new = self._project(x, positions.rotation)
        segments = [
            KVSegment(prefix_cache, positions.prefix),
            KVSegment(suffix_cache, positions.suffix),
            KVSegment(new, jnp.ones((1, 1), bool)),
        ]
        return self._finish(x, merged_attention(q, segments)), new

    @on_own_rows_of_layers
    def score_groups(
        self,
        rows: tuple[Float[Array, "B _ d"], ...],
        _: None,
        positions: tuple[GroupPositions, ...],
    ) -> tuple[tuple[Float[Array, "B _ d"], ...], None]:
        """Each prefix and its suffixes in one row, so that weights are gathered once for all."""
        pairs = zip(rows, positions, strict=True)
        return tuple(self._score_row(x, at) for x, at in pairs), None

    def _score_row(self, x: Float[Array, "B r d"], at: GroupPositions) -> Float[Array, "B r d"]:
        q, cache = self._project(x, at.rotation)
        return self._finish(x, self.attention.group(q, cache, at.length, at.sizes))

    def _project(self, x, rotation) -> tuple[Array, KeyValues]:
        x = self.input_norm(x)
        # Another order would add up the gradient of `x` in another, and change its last bits.
        k, v, q = (
            constrain_features(project(x), self.sharding) for project in (self.k, self.v, self.q)
        )
        return rotate(q, rotation), KeyValues(keys=rotate(k, rotation), values=v)

    def _finish(self, x, attended):
        x = constrain_batch(x + self.o(constrain_features(attended, self.sharding)), self.sharding)
        mlp = mlp_by_features(self.mlp, self.sharding, MLP_SPECS, self.post_norm(x))
        return constrain_batch(x + mlp, self.sharding)


class Decoder(nn.Module):
    """All layers, from embedded tokens to final hidden states (before the head)."""

    config: TextConfig
    dtype: DTypeLike
    remat: str
    sharding: NamedSharding | None = None
    attention: Attention = XLA()

    def setup(self):
        c = self.config
        methods = ("prefill", "decode", "score_groups")
        self.layers = scan_layers(DecoderBlock, c.num_layers, remat=self.remat, methods=methods)(
            c, self.dtype, self.sharding, self.attention
        )
        self.norm = RMSNorm(c.rms_norm_eps)

    def prefill(
        self, x: Float[Array, "B s d"], rotation: Rotation
    ) -> tuple[Float[Array, "B s d"], KeyValues]:
        """Hidden states of the prefix, and its keys and values of all layers."""
        x, cache = self.layers.prefill(x, None, rotation)
        return self.norm(x), cache

    def decode(
        self,
        x: Float[Array, "B G 1 d"],
        caches: tuple[KeyValues, KeyValues],
        positions: DecodePositions,
    ) -> tuple[Float[Array, "B G 1 d"], KeyValues]:
        """Hidden state of one token of each member, and its keys and values of all layers."""
        x, new = self.layers.decode(x, caches, positions)
        return self.norm(x), new

    def score_groups(
        self, rows: tuple[Float[Array, "B _ d"], ...], positions: tuple[GroupPositions, ...]
    ) -> tuple[Float[Array, "B _ _ d"], ...]:
        """Hidden states of the suffixes of each row, in one pass over the layers."""
        rows, _ = self.layers.score_groups(rows, None, positions)
        pairs = zip(rows, positions, strict=True)
        return tuple(self.norm(at.sizes.parts(x)[1]) for x, at in pairs)


def mrope_angles(
    positions: Int[Array, "B 3 s"], config: TextConfig
) -> Float[Array, "B s {config.head_dim}/2"]:
    """Rotary angles: each frequency turns with time, height or width (arXiv 2409.12191, 2.1)."""
    axis = np.repeat(np.arange(3), config.mrope_section)
    frequencies = inverse_frequencies(config.head_dim, config.rope_theta)
    return jnp.swapaxes(positions[:, axis], 1, 2).astype(jnp.float32) * frequencies
