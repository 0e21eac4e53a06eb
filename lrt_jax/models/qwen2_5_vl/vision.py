"""The vision tower: patches of still images in window order to tokens of the decoder."""

import flax.linen as nn
import jax.numpy as jnp
from flax import struct
from jax.sharding import NamedSharding
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from lrt_jax.models.attention import XLA, Attention
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
from lrt_jax.models.per_device import on_own_rows
from lrt_jax.models.qwen2_5_vl.config import VisionConfig
from lrt_jax.models.qwen2_5_vl.sharding import specs

NORM_EPS = 1e-6  # fixed in the reference implementation, not in the config


@struct.dataclass
class PatchPositions:
    """What every layer needs to know of where the patches stand."""

    rotation: Rotation  # [N, p, f]; f is half of a head's width
    window: Int[Array, "N p"]  # -1 for padding


class PatchEmbed(nn.Module):
    """Projects patches. The kernel spans two frames; a still image shows the same one twice."""

    config: VisionConfig
    dtype: DTypeLike

    @nn.compact
    def __call__(self, patches: Float[Array, "N p d"]) -> Float[Array, "N p D"]:
        c = self.config
        shape = (c.in_channels, c.temporal_patch_size, c.patch_size, c.patch_size, c.hidden_size)
        init = nn.initializers.lecun_normal(in_axis=(0, 1, 2, 3))
        kernel = self.param("kernel", init, shape).sum(axis=1)
        kernel = kernel.reshape(-1, c.hidden_size).astype(self.dtype)
        return patches.astype(self.dtype) @ kernel


class VisionBlock(nn.Module):
    """Pre-norm attention and MLP; `full` says whether the layer looks past its windows."""

    config: VisionConfig
    dtype: DTypeLike
    sharding: NamedSharding | None
    attention: Attention

    @nn.compact
    @on_own_rows(specs("vision/blocks/"))
    def __call__(
        self, x: Float[Array, "N p D"], full: Bool[Array, ""], positions: PatchPositions
    ) -> tuple[Float[Array, "N p D"], None]:
        attended = self._attend(RMSNorm(NORM_EPS, name="norm1")(x), full, positions)
        x = constrain_batch(x + attended, self.sharding)
        mlp = GatedMLP(self.config.intermediate_size, True, self.dtype, self.sharding, name="mlp")
        return constrain_batch(x + mlp(RMSNorm(NORM_EPS, name="norm2")(x)), self.sharding), None

    def _attend(self, x, full, positions):
        c = self.config
        qkv = nn.DenseGeneral((3, c.num_heads, c.head_dim), dtype=self.dtype, name="qkv")(x)
        q, k, v = (constrain_features(qkv[..., i, :, :], self.sharding) for i in range(3))
        q, k = rotate(q, positions.rotation), rotate(k, positions.rotation)

        out = self.attention.patches(q, k, v, positions.window, full, c.window_patches)
        out = constrain_features(out, self.sharding)
        return nn.DenseGeneral(c.hidden_size, axis=(-2, -1), dtype=self.dtype, name="proj")(out)


class PatchMerger(nn.Module):
    """Joins the patches of each merged token and projects them to the decoder's width."""

    config: VisionConfig
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Float[Array, "N p D"]) -> Float[Array, "N p/4 E"]:
        c = self.config
        x = RMSNorm(NORM_EPS, name="norm")(x)
        x = x.reshape(x.shape[0], -1, c.merge_unit * c.hidden_size)
        x = nn.Dense(c.merge_unit * c.hidden_size, dtype=self.dtype, name="fc1")(x)
        return nn.Dense(c.out_hidden_size, dtype=self.dtype, name="fc2")(
            nn.gelu(x, approximate=False)
        )


class VisionTower(nn.Module):
    """Qwen2.5-VL's vision transformer (arXiv 2502.13923, section 2.1)."""

    config: VisionConfig
    dtype: DTypeLike
    remat: str
    sharding: NamedSharding | None = None
    attention: Attention = XLA()

    @nn.compact
    def __call__(
        self, patches: Float[Array, "N p d"], coords: Int[Array, "N p 2"], window: Int[Array, "N p"]
    ) -> Float[Array, "N p/4 E"]:
        """Encodes `N` images of at most `p` patches; see `PatchOrder` for the arguments.

        Returns:
          Merged tokens in window order. Those of padding are finite and mean nothing.
        """
        c = self.config
        positions = PatchPositions(Rotation.by(_axial_angles(coords, c)), window)
        full = jnp.isin(jnp.arange(c.depth), jnp.array(c.full_attention_layers))
        blocks = scan_layers(VisionBlock, c.depth, remat=self.remat, methods=["__call__"])
        x = constrain_batch(PatchEmbed(c, self.dtype, name="patch_embed")(patches), self.sharding)
        x, _ = blocks(c, self.dtype, self.sharding, self.attention, name="blocks")(
            x, full, positions
        )
        return PatchMerger(c, self.dtype, name="merger")(x)


def _axial_angles(
    coords: Int[Array, "N p 2"], config: VisionConfig
) -> Float[Array, "N p {config.head_dim}/2"]:
    """Half of the frequencies turn with the row, half with the column."""
    frequencies = inverse_frequencies(config.head_dim // 2, config.rope_theta)
    angles = coords[..., None].astype(jnp.float32) * frequencies
    return angles.reshape(*coords.shape[:-1], -1)
