"""What the vision tower and the decoder share: norm, gated MLP, rotary embedding, scan."""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct
from jax.sharding import NamedSharding, PartitionSpec
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from lrt_jax.models.quantised import promote_dtype
from lrt_jax.parallel import rules

# What a layer keeps for its backward pass, by `choices.Remat`; the rest is computed again. Without
# a policy attention kernels still decide for themselves: one that saves everything would save their
# logits too.
REMAT_POLICIES = {
    "full": jax.checkpoint_policies.nothing_saveable,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "none": None,
}


class RMSNorm(nn.Module):
    """Root-mean-square norm in float32 (arXiv 1910.07467), scaled in the input's dtype."""

    eps: float = 1e-6

    @nn.compact
    def __call__(self, x: Float[Array, "*b d"]) -> Float[Array, "*b d"]:
        scale = self.param("scale", nn.initializers.ones, x.shape[-1:])
        high = x.astype(jnp.float32)
        variance = jnp.mean(jnp.square(high), axis=-1, keepdims=True)
        return scale.astype(x.dtype) * (high * jax.lax.rsqrt(variance + self.eps)).astype(x.dtype)


class GatedMLP(nn.Module):
    """`down(silu(gate(x)) * up(x))` (SwiGLU, arXiv 2002.05202); see `constrain_features`."""

    intermediate_size: int
    use_bias: bool
    dtype: DTypeLike
    sharding: NamedSharding | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "*b d"]) -> Float[Array, "*b d"]:
        def dense(features, name):
            options = dict(dtype=self.dtype, promote_dtype=promote_dtype)
            return nn.Dense(features, use_bias=self.use_bias, name=name, **options)

        gate = constrain_features(dense(self.intermediate_size, "gate")(x), self.sharding)
        up = constrain_features(dense(self.intermediate_size, "up")(x), self.sharding)
        return dense(x.shape[-1], "down")(nn.silu(gate) * up)


def inverse_frequencies(dim: int, theta: float) -> Float[Array, " {dim}/2"]:
    """Rotary frequencies `theta**(-2i/dim)` in float32 (arXiv 2104.09864)."""
    return 1.0 / theta ** (jnp.arange(0, dim, 2, dtype=jnp.float32) / dim)


@struct.dataclass
class Rotation:
    """Cosines and sines of rotary angles, in float32, computed once for all layers."""

    cos: Float[Array, "*b f"]  # f is half of a head's width
    sin: Float[Array, "*b f"]

    @classmethod
    def by(cls, angles: Float[Array, "*b f"]) -> "Rotation":
        """By angles in float32: bfloat16 rounds 257 to 256."""
        return cls(jnp.cos(angles), jnp.sin(angles))


def rotate(x: Float[Array, "*b h k"], rotation: Rotation) -> Float[Array, "*b h k"]:
    """Rotates the two halves of every head, in float32.

    Args:
      x: heads of width `k`.
      rotation: [*b, k/2], or with axes of 1 in place of some of `b`.
    """
    return _rotated(x, rotation.cos, rotation.sin)


def _rotated(
    x: Float[Array, "*b h k"], cos: Float[Array, "*#b k/2"], sin: Float[Array, "*#b k/2"]
) -> Float[Array, "*b h k"]:
    cos, sin = cos[..., None, :], sin[..., None, :]
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    out = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return out.astype(x.dtype)


def constrain_batch(x, sharding: jax.sharding.Sharding | None):
    """Constrains the batch axis of activations, so that XLA gathers weights.

    Unconstrained, it may divide a contraction over the devices instead and add up the activations
    of the whole batch on each of them.
    """
    return x if sharding is None else jax.lax.with_sharding_constraint(x, sharding)


def constrain_features(
    x: Float[Array, "B ..."], sharding: NamedSharding | None
) -> Float[Array, "B ..."]:
    """`constrain_batch` inside a layer, which leaves the other axes to the compiler.

    To sample, heads and hidden features are divided over `tensor`. In training the batch is divided
    over all devices; unconstrained, XLA would divide heads as well, gather the activations of the
    whole batch for it and reduce what comes out.
    """
    if sharding is None:
        return x
    free = (PartitionSpec.UNCONSTRAINED,) * (x.ndim - 1)
    spec = PartitionSpec(sharding.spec[0], *free)
    return jax.lax.with_sharding_constraint(x, NamedSharding(sharding.mesh, spec))


def head_rows(sharding: NamedSharding | None) -> NamedSharding | None:
    """How the batch is divided where it meets weights that are divided over `attn_dp` too."""
    if sharding is None or rows_everywhere(sharding):
        return sharding
    return rules.sharding(sharding.mesh, ("head_batch",), "sample")


def rows_everywhere(sharding: NamedSharding | None) -> bool:
    """Whether the batch is divided over all axes of the mesh, as in training."""
    return sharding is not None and set(sharding.spec[0]) == set(sharding.mesh.axis_names)


def embed(
    table: Float[Array, "v d"], tokens: Int[Array, "*b"], sharding: NamedSharding | None
) -> Float[Array, "*b d"]:
    """Embedding lookup.

    In training the table is divided by columns meanwhile: each device looks up its columns for the
    tokens of its slice, and an all-to-all exchanges these for all columns of its own tokens;
    nothing crosses `data`. Divided by vocabulary, XLA would add up the activations of the whole
    batch on every device. To sample, the table stays divided by vocabulary.
    """
    if not rows_everywhere(sharding):
        rows = head_rows(sharding)
        return constrain_batch(jnp.take(table, constrain_batch(tokens, rows), axis=0), rows)

    def constrain(x: Array, *axes: str | None) -> Array:
        return jax.lax.with_sharding_constraint(
            x, rules.sharding(sharding.mesh, axes, "train", x.shape)
        )

    between = (None,) * (tokens.ndim - 1)
    tokens = constrain(tokens, "lookup_batch", *between)
    found = jnp.take(constrain(table, None, "lookup_features"), tokens, axis=0)
    return constrain(found, "lookup_batch", *between, "lookup_features")


def scan_layers(
    block: type[nn.Module], length: int, *, remat: str, methods: Sequence[str]
) -> type[nn.Module]:
    """`length` copies of `block` with stacked parameters, run by `lax.scan` and rematerialised.

    Each method has the signature `(carry, layer_input, shared) -> (carry, layer_output)`;
    `layer_input` and `layer_output` have a leading axis of layers outside, `shared` has none.
    """
    policy = REMAT_POLICIES[remat]
    if policy is not None:
        block = nn.remat(block, policy=policy, prevent_cse=False, methods=tuple(methods))
    return nn.scan(
        block,
        variable_axes={"params": 0},
        split_rngs={"params": True},
        in_axes=(0, nn.broadcast),
        out_axes=0,
        length=length,
        methods=tuple(methods),
    )
