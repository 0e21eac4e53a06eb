"""Checksums of arrays, computed where the arrays live, and the same wherever that is.

A checkpoint is written by one mesh and read by another, whose devices hold other parts of each
array. Digests of the stored chunks would have to be taken by whoever writes a chunk, could not be
compared after reading on another mesh, and would miss what goes wrong between a file and a device.
So a checksum is a sum modulo 2^32, over all numbers of an array, of a hash of a number's bits and
its index: it can be added up in any order and in any parts, on the devices, in one pass.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec, Sharding
from jaxtyping import Array, UInt32

GOLDEN = 0x9E3779B1  # odd: times an index, it gives every index below 2^32 bits of its own
_BITS = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}  # by bytes of a number


def by_path(tree: Any) -> dict[str, Any]:
    """The leaves of a tree by their `/`-joined paths."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def checksums(arrays: Mapping[str, Array]) -> dict[str, str]:
    """Checksums of 64 bits in hex, by the arrays' names; every process of the mesh must call it.

    Any change of a single number changes its array's checksum; of other changes, such as numbers
    that have changed places, one in some 2^60 does not. Nothing is copied, and what goes back to
    the host are three numbers of each array.

    Args:
      arrays: all on the same devices, of numbers of at most 4 bytes.

    Raises:
      ValueError: not all numbers are finite; the arrays are named.
    """
    everywhere = _on_every_device(next(iter(arrays.values())).sharding)
    # In one program: several that wait for other devices at once could wait for each other.
    sums = jax.device_get(_sums_on(everywhere)(list(arrays.values())))
    if bad := [name for name, (*_, sound) in zip(arrays, sums, strict=True) if not sound]:
        raise ValueError(f"not all numbers are finite in {', '.join(bad)}")
    return {name: f"{a:08x}{b:08x}" for name, (a, b, _) in zip(arrays, sums, strict=True)}


def _on_every_device(sharding: Sharding) -> Sharding:
    if isinstance(sharding, NamedSharding):
        return NamedSharding(sharding.mesh, PartitionSpec())
    return sharding  # of a single device


@functools.cache
def _sums_on(sharding: Sharding) -> Callable[[list[Array]], Array]:
    def sums(leaves: list[Array]) -> Array:
        return jnp.stack([_sums(leaf) for leaf in leaves])

    return jax.jit(sums, out_shardings=sharding)


def _sums(leaf: Array) -> UInt32[Array, "3"]:
    """Two sums over an array, and whether all of it is finite.

    In a single reduction: XLA makes arrays of the terms of separate ones. Every term of the first
    sum is a bijection of the number's bits, so that no other number at its index has the same.
    """
    bits = lax.bitcast_convert_type(leaf, _BITS[leaf.dtype.itemsize]).astype(jnp.uint32)
    key = _indices(leaf.shape) * jnp.uint32(GOLDEN)
    term = _mixed(bits ^ key)
    terms = (term, term * (key | 1), leaf - leaf)  # what is not finite less itself is NaN
    zeros = (jnp.uint32(0), jnp.uint32(0), jnp.zeros((), leaf.dtype))
    first, second, nothing = lax.reduce(terms, zeros, _added, tuple(range(leaf.ndim)))
    return jnp.stack([first, second, (nothing == 0).astype(jnp.uint32)])


def _added(one: tuple, other: tuple) -> tuple:
    return tuple(a + b for a, b in zip(one, other, strict=True))


def _indices(shape: tuple[int, ...]) -> UInt32[Array, "..."]:
    """Every number's index in the flattened array, modulo 2^32."""
    steps = np.cumprod((1, *shape[:0:-1]), dtype=np.uint64)[::-1] % 2**32
    index = jnp.zeros(shape, jnp.uint32)
    for axis, step in zip(range(len(shape)), steps, strict=False):
        index += lax.broadcasted_iota(jnp.uint32, shape, axis) * jnp.uint32(step)
    return index


def _mixed(x: UInt32[Array, "..."]) -> UInt32[Array, "..."]:
    """Spreads every bit over all others, as MurmurHash3 ends; a bijection of 32 bits."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
    return x ^ (x >> 16)
