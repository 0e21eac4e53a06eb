"""What the vision tower and the decoder share: norm, gated MLP, rotary embedding, scan."""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from lrt_jax.parallel.rules import sharding

# What a layer keeps for its backward pass, by `choices.Remat`; the rest is computed again.
REMAT_POLICIES = {
    "full": jax.checkpoint_policies.nothing_saveable,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "none": jax.checkpoint_policies.everything_saveable,
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
    """`down(silu(gate(x)) * up(x))` (SwiGLU, arXiv 2002.05202); `rows` as of `split_rows`."""

    intermediate_size: int
    use_bias: bool
    dtype: DTypeLike
    rows: NamedSharding | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "*b d"]) -> Float[Array, "*b d"]:
        def dense(features, name):
            return nn.Dense(features, use_bias=self.use_bias, dtype=self.dtype, name=name)

        gate = split_rows(dense(self.intermediate_size, "gate")(x), self.rows)
        up = split_rows(dense(self.intermediate_size, "up")(x), self.rows)
        return dense(x.shape[-1], "down")(nn.silu(gate) * up)


def inverse_frequencies(dim: int, theta: float) -> Float[Array, " {dim}/2"]:
    """Rotary frequencies `theta**(-2i/dim)` in float32 (arXiv 2104.09864)."""
    return 1.0 / theta ** (jnp.arange(0, dim, 2, dtype=jnp.float32) / dim)


def rotate(x: Float[Array, "*b h k"], angles: Float[Array, "*#b k/2"]) -> Float[Array, "*b h k"]:
    """Rotates the two halves of every head by `angles`, in float32: bfloat16 rounds 257 to 256."""
    cos, sin = jnp.cos(angles)[..., None, :], jnp.sin(angles)[..., None, :]
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    out = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return out.astype(x.dtype)


def constrain_batch(x, rows: jax.sharding.Sharding | None):
    """Keeps the leading axis of activations where `rows` says, so that weights are gathered.

    Left to itself the compiler may spread a contraction over the devices instead, and then every
    device holds, and adds up, the activations of the whole batch.
    """
    return x if rows is None else jax.lax.with_sharding_constraint(x, rows)


def split_rows(x: Float[Array, "B ..."], rows: NamedSharding | None) -> Float[Array, "B ..."]:
    """`constrain_batch` inside a layer: the other axes may be divided too, where devices are left.

    To sample, heads and hidden features are divided over `tensor`. In training rows are divided
    over all devices; without this the compiler divides heads all the same, and then gathers the
    rows of all activations for it, adds up what comes out and sends it back.
    """
    if rows is None:
        return x
    free = (PartitionSpec.UNCONSTRAINED,) * (x.ndim - 1)
    spec = PartitionSpec(rows.spec[0], *free)
    return jax.lax.with_sharding_constraint(x, NamedSharding(rows.mesh, spec))


def embed(
    table: Float[Array, "v d"], tokens: Int[Array, "*b"], rows: NamedSharding | None
) -> Float[Array, "*b d"]:
    """Rows of a table, which is divided by columns meanwhile where `rows` are on all devices.

    In training, that is: each device looks up its columns for the rows of its slice, and these are
    exchanged for all columns of its rows, forth and back; nothing crosses `data`. A table that is
    divided by words has the compiler add up the activations of the whole batch on every device. To
    sample, it stays divided by words.
    """
    if rows is None or set(rows.spec[0]) != set(rows.mesh.axis_names):
        return jnp.take(table, tokens, axis=0)

    def place(x: Array, *axes: str | None) -> Array:
        return jax.lax.with_sharding_constraint(x, sharding(rows.mesh, axes, "train", x.shape))

    between = (None,) * (tokens.ndim - 1)
    tokens = place(tokens, "rows_looked_up", *between)
    found = jnp.take(place(table, None, "looked_up"), tokens, axis=0)
    return place(found, "rows_looked_up", *between, "looked_up")


def scan_layers(
    block: type[nn.Module], length: int, *, remat: str, methods: Sequence[str]
) -> type[nn.Module]:
    """`length` copies of `block` with stacked parameters, run by `lax.scan` and rematerialised.

    Each method has the signature `(carry, layer_input, shared) -> (carry, layer_output)`;
    `layer_input` and `layer_output` have a leading axis of layers outside, `shared` has none.
    """
    block = nn.remat(block, policy=REMAT_POLICIES[remat], prevent_cse=False, methods=tuple(methods))
    return nn.scan(
        block,
        variable_axes={"params": 0},
        split_rngs={"params": True},
        in_axes=(0, nn.broadcast),
        out_axes=0,
        length=length,
        methods=tuple(methods),
    )
