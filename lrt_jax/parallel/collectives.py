"""Rows between the hosts' memory and the devices, each host holding its own share of a batch."""

import functools
from collections.abc import Callable

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from lrt_jax.parallel import processes
from lrt_jax.parallel.rules import Layout, partition_spec


def batch_sharding(mesh: Mesh, layout: Layout = "train") -> NamedSharding:
    """Sharding of the batch axis: over all devices to train, over `data` and `fsdp` to sample."""
    return NamedSharding(mesh, partition_spec(["batch"], layout))


def replicate(tree, mesh: Mesh):
    """Puts host values, which are the same in every process, on all devices."""
    return jax.tree.map(lambda leaf: _put(leaf, NamedSharding(mesh, PartitionSpec())), tree)


def shard_batch(tree, mesh: Mesh):
    """Shards a batch that every process holds whole."""
    return jax.tree.map(lambda leaf: _put(leaf, batch_sharding(mesh)), tree)


def shard_local_batch(tree, mesh: Mesh):
    """Puts this process's rows, the leading axis of every leaf, on its devices.

    Raises:
      ValueError: the rows do not divide evenly over the devices.
    """
    sharding = batch_sharding(mesh)

    def put(leaf):
        leaf = np.asarray(leaf)
        rows = leaf.shape[0] * processes.count()
        if rows % mesh.size:
            raise ValueError(f"{rows} rows do not divide over {mesh.size} devices")
        with jax.transfer_guard("allow"):  # this one is asked for
            shape = (rows, *leaf.shape[1:])
            return jax.make_array_from_process_local_data(sharding, leaf, shape)

    return jax.tree.map(put, tree)


def _put(leaf, sharding: NamedSharding) -> jax.Array:
    """Part by part, since `device_put` of a whole has all processes compare what they put."""
    leaf = np.asarray(leaf)
    with jax.transfer_guard("allow"):  # this one is asked for
        return jax.make_array_from_callback(leaf.shape, sharding, leaf.__getitem__)


def rows_to_host(tree):
    """This process's rows of arrays that are sharded by rows, each row once, as NumPy."""
    return jax.tree.map(_local_rows, tree)


def _local_rows(array: jax.Array) -> np.ndarray:
    if array.is_fully_addressable:
        return np.asarray(jax.device_get(array))
    shards = {shard.index[0].start or 0: shard.data for shard in array.addressable_shards}
    return np.concatenate(jax.device_get([shards[start] for start in sorted(shards)]))


def all_gather_rows(tree, mesh: Mesh):
    """The rows of all processes, in the order of the batch, on every host.

    Args:
      tree: NumPy arrays, this process's rows of each; of any dtype, which comes back bit for bit.
      mesh: that the batch is spread over.
    """
    if processes.count() == 1:
        return tree
    leaves, treedef = jax.tree.flatten(tree)
    rows = len(leaves[0])
    # As bytes of one array: devices have no 64-bit numbers, and one exchange is enough.
    pieces = [np.ascontiguousarray(leaf).reshape(rows, -1).view(np.uint8) for leaf in leaves]
    packed = shard_local_batch(np.concatenate(pieces, axis=1), mesh)
    whole = jax.device_get(_replicated(mesh)(packed))
    ends = np.cumsum([piece.shape[1] for piece in pieces])
    columns = np.split(whole, ends[:-1], axis=1)
    return jax.tree.unflatten(
        treedef,
        [
            np.ascontiguousarray(column).view(leaf.dtype).reshape(-1, *leaf.shape[1:])
            for column, leaf in zip(columns, leaves, strict=True)
        ],
    )


def any_process(flag: bool, mesh: Mesh) -> bool:
    """Whether a flag is set in any process; a collective, which all must call."""
    return bool(np.any(all_gather_rows(np.full(len(mesh.local_devices), flag), mesh)))


@functools.cache
def _replicated(mesh: Mesh) -> Callable[[jax.Array], jax.Array]:
    """Copies an array to all devices."""
    return jax.jit(lambda x: x, out_shardings=NamedSharding(mesh, PartitionSpec()))
