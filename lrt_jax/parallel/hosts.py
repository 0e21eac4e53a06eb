"""Processes: starting JAX on each, and moving rows between host and devices."""

import os

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from lrt_jax.parallel.platform import tpu_attached
from lrt_jax.parallel.rules import Layout, partition_spec


def start_runtime() -> None:
    """Joins the processes of a pod slice, if there are any; call it before a device is touched."""
    if _in_a_cluster():
        jax.distributed.initialize()


def _in_a_cluster() -> bool:
    """Whether something names the other processes: JAX's own variable, or a TPU VM's."""
    hosts = os.environ.get("TPU_WORKER_HOSTNAMES", "").split(",")
    return "JAX_COORDINATOR_ADDRESS" in os.environ or (tpu_attached() and len(hosts) > 1)


def is_first_process() -> bool:
    return jax.process_index() == 0


def batch_sharding(mesh: Mesh, layout: Layout = "train") -> NamedSharding:
    """Where rows live: over all devices, or, to sample, whole on each `tensor` group."""
    return NamedSharding(mesh, partition_spec(["batch"], layout))


def to_every_device(tree, mesh: Mesh):
    """Puts the same host values on all devices."""
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))


def rows_to_devices(tree, mesh: Mesh):
    """Puts this process's rows, the leading axis of every leaf, on its devices.

    Raises:
      ValueError: the rows do not divide evenly over the devices.
    """
    sharding = batch_sharding(mesh)

    def put(leaf):
        leaf = np.asarray(leaf)
        rows = leaf.shape[0] * jax.process_count()
        if rows % mesh.size:
            raise ValueError(f"{rows} rows do not divide over {mesh.size} devices")
        return jax.make_array_from_process_local_data(sharding, leaf)

    return jax.tree.map(put, tree)


def rows_to_host(tree):
    """This process's rows of arrays that are sharded by rows, each row once, as NumPy."""
    return jax.tree.map(_local_rows, tree)


def _local_rows(array: jax.Array) -> np.ndarray:
    if array.is_fully_addressable:
        return np.asarray(jax.device_get(array))
    shards = {shard.index[0].start or 0: shard.data for shard in array.addressable_shards}
    return np.concatenate([np.asarray(shards[start]) for start in sorted(shards)])
