"""What each device computes for its own rows, inside of `shard_map`.

In training the batch is divided over all devices, and every device needs all weights of a layer for
its rows. They are gathered by hand here, an axis of the mesh at a time, and gradients go back the
same way: added up and scattered in one. Left to itself the compiler gathers weights more often than
once, makes all-reduces of it where shards do not fill a tile, and adds up whole gradients.
"""

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import traverse_util
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from lrt_jax.models.attention import Attention, KeyValues
from lrt_jax.models.layers import GatedMLP, rows_everywhere

# The spec of a parameter, by its path and shape, on a mesh.
SpecOf = Callable[[Mesh, str, tuple[int, ...]], PartitionSpec]


def runs_by_rows(sharding: NamedSharding | None) -> bool:
    """Whether each of several devices runs a layer for its own rows."""
    return rows_everywhere(sharding) and sharding.mesh.size > 1


def gather(x: Array, spec: PartitionSpec, dtype: DTypeLike) -> Array:
    """A whole array of this device's shard, inside of `shard_map`.

    Args:
      x: the shard.
      spec: by which the array is divided; one that is whole is returned as it is.
      dtype: in which it travels, and its gradient comes back.
    """
    if any(spec):
        x = x.astype(dtype)
    for axis, names in reversed([*enumerate(spec)]):
        several = [name for name in _names(names) if jax.lax.axis_size(name) > 1]
        for name in reversed(several):
            x = _gather_axis(x, name, axis)
    return x


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _gather_axis(x: Array, name: str, axis: int) -> Array:
    """All shards of an axis of the mesh, one after the other along an axis of the array."""
    return jax.lax.all_gather(x, name, axis=axis, tiled=True)


def _scatter_axis(name: str, axis: int, _: None, gradient: Array) -> tuple[Array]:
    """Adds up gradients and keeps this device's shard.

    Shards are brought in front for it, as matrices: what lies over the lanes of a register, as the
    innermost axis does, and some of more axes the compiler would add up whole.
    """
    shape, shards = gradient.shape, jax.lax.axis_size(name)
    apart = gradient.reshape(*shape[:axis], shards, shape[axis] // shards, *shape[axis + 1 :])
    apart = jnp.moveaxis(apart, axis, 0)
    matrices = apart.reshape(shards, -1, apart.shape[-1])
    return (jax.lax.psum_scatter(matrices, name).reshape(apart.shape[1:]),)


_gather_axis.defvjp(lambda x, name, axis: (_gather_axis(x, name, axis), None), _scatter_axis)


def on_own_rows(spec_of: SpecOf):
    """Decorates a method of a layer: every device runs it on its own rows, with all weights.

    For modules with the attributes `sharding` and `dtype`, and methods as `scan_layers` takes them,
    in whose arguments and results the batch is the leading axis, but for scalars. Where the batch
    is not divided over all devices the method is what it was.

    Args:
      spec_of: of one layer's parameters.
    """

    def decorate(method):
        @functools.wraps(method)
        def run(self: nn.Module, x: Any, layer_input: Any, shared: Any):
            if not runs_by_rows(self.sharding):
                return method(self, x, layer_input, shared)
            alone = self.clone(parent=None, sharding=None)

            def local(params, x, layer_input, shared):
                args = x, layer_input, shared
                return alone.apply({"params": params}, *args, method=method.__name__)

            run_local = with_whole(local, self.sharding, spec_of, self.dtype)
            return run_local(self.variables["params"], x, layer_input, shared)

        return run

    return decorate


def with_whole(
    function: Callable, sharding: NamedSharding, spec_of: SpecOf, dtype: DTypeLike
) -> Callable:
    """A function of whole parameters and of one device's rows, of divided parameters and all rows.

    Args:
      function: of a tree of parameters, and of further arguments whose leading axis is the batch,
        but for scalars.
      sharding: of the batch.
      spec_of: of the parameters.
      dtype: in which parameters are gathered.
    """

    def run(params: Mapping, *rows):
        flat = traverse_util.flatten_dict(params, sep="/")
        mesh = sharding.mesh
        specs = {path: spec_of(mesh, path, leaf.shape) for path, leaf in flat.items()}

        def local(flat, *rows):
            whole = {path: gather(leaf, specs[path], dtype) for path, leaf in flat.items()}
            return function(traverse_util.unflatten_dict(whole, sep="/"), *rows)

        def of_rows(x):
            return sharding.spec if jnp.ndim(x) else PartitionSpec()

        return jax.shard_map(
            local,
            mesh=mesh,
            in_specs=(specs, *jax.tree.map(of_rows, rows)),
            out_specs=sharding.spec,
            check_vma=False,
        )(flat, *rows)

    return run


def mlp_by_features(
    mlp: GatedMLP, sharding: NamedSharding | None, spec_of: SpecOf, x: Float[Array, "B ... d"]
) -> Float[Array, "B ... d"]:
    """An MLP without biases whose features are divided over devices, to sample.

    Rows that `attn_dp` divides are gathered for it, and what every device makes of its features is
    scattered over `attn_dp` as it is added up, of which the compiler would make an all-reduce.

    Args:
      mlp: its layer.
      sharding: of the batch. Where rows are divided over all devices, or there is one, the layer
        runs as it is.
      spec_of: of its parameters.
      x: what goes in.
    """
    if sharding is None or sharding.mesh.size == 1 or rows_everywhere(sharding):
        return mlp(x)
    mesh = sharding.mesh
    flat = traverse_util.flatten_dict(mlp.variables["params"], sep="/")
    specs = {  # a kernel may be quantised; its scales then have specs of their own
        path: jax.tree.map(lambda x, path=path: spec_of(mesh, path, x.shape), leaf)
        for path, leaf in flat.items()
    }
    by_feature = _names(spec_of(mesh, "down/kernel", flat["down/kernel"].shape)[0])
    in_rows = tuple(name for name in by_feature if name in _names(sharding.spec[0]))
    others = tuple(name for name in by_feature if name not in in_rows)
    features = mlp.intermediate_size // math.prod(mesh.shape[name] for name in by_feature)
    alone = mlp.clone(parent=None, sharding=None, intermediate_size=features)

    def local(flat, x):
        x = jax.lax.all_gather(x, in_rows, axis=0, tiled=True) if in_rows else x
        x = alone.apply({"params": traverse_util.unflatten_dict(flat, sep="/")}, x)
        x = jax.lax.psum_scatter(x, in_rows, scatter_dimension=0, tiled=True) if in_rows else x
        return jax.lax.psum(x, others) if others else x

    return jax.shard_map(
        local,
        mesh=mesh,
        in_specs=(specs, sharding.spec),
        out_specs=sharding.spec,
        check_vma=False,
    )(flat, x)


def causal_by_heads(
    attention: Attention,
    sharding: NamedSharding | None,
    queries: Float[Array, "B s h k"],
    cache: KeyValues,
) -> Float[Array, "B s h k"]:
    """Causal attention with rows as a sharding divides them, and heads over its other axes.

    Heads that do not divide over the devices are attended to by all of them.
    """
    if sharding is None or sharding.mesh.size == 1:
        return attention.causal(queries, cache)
    mesh, rows = sharding.mesh, sharding.spec[0]
    left = tuple(name for name in mesh.axis_names if name not in _names(rows))
    heads, kv_heads = queries.shape[2], cache.keys.shape[2]
    devices = math.prod(mesh.shape[name] for name in left)
    by_head = left if left and heads % devices == 0 else None
    by_kv_head = by_head if kv_heads % devices == 0 else None

    def local(queries, cache):
        if by_kv_head != by_head:  # those that this device's query heads read
            first = jax.lax.axis_index(by_head) * queries.shape[2]
            read = (first + jnp.arange(queries.shape[2])) // (heads // kv_heads)
            cache = jax.tree.map(lambda x: jnp.take(x, read, axis=2), cache)
        return attention.causal(queries, cache)

    spec = PartitionSpec(rows, None, by_head)
    return jax.shard_map(
        local,
        mesh=mesh,
        in_specs=(spec, PartitionSpec(rows, None, by_kv_head)),
        out_specs=spec,
        check_vma=False,
    )(queries, cache)


def _names(axes: str | tuple[str, ...] | None) -> tuple[str, ...]:
    return (axes,) if isinstance(axes, str) else axes or ()
