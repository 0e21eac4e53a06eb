"""The device mesh.

Axes: `data` (across slices), `fsdp` (inside a slice), `tensor` (a layer), and `attn_dp`, which in
training counts to `fsdp`, and in sampling to `tensor` but for attention.
"""

import collections
import math
from collections.abc import Sequence

import jax
import numpy as np
from absl import logging
from jax.experimental import mesh_utils
from jax.sharding import Mesh

from lrt_jax.parallel.platform import leave_out_missing_tpu

AXES = ("data", "fsdp", "attn_dp", "tensor")


def make_mesh(
    data: int = 1,
    fsdp: int = -1,
    tensor: int = 1,
    attn_dp: int = 1,
    *,
    devices: Sequence[jax.Device] | None = None,
) -> Mesh:
    """A mesh of the given sizes; `fsdp=-1` takes the devices that the other axes leave.

    Neighbours on an axis are neighbours on the chips' torus where JAX knows how to lay the mesh out
    on it; where it does not, devices are taken in their order, which costs bandwidth, and a warning
    says so. Of several TPU slices only `data` crosses from one to the next: the network between
    slices is far slower than the links inside one.

    Raises:
      ValueError: the sizes do not multiply to the number of devices, or slices do not divide them.
    """
    leave_out_missing_tpu()
    devices = list(devices if devices is not None else jax.devices())
    shape = mesh_shape(data, fsdp, tensor, attn_dp, devices=len(devices))
    slices = [_slice_index(device) for device in devices]
    _check_slices(slices, data)
    placed = _on_the_torus(shape, devices, len(set(slices)))
    return Mesh(placed, AXES, axis_types=(jax.sharding.AxisType.Auto,) * len(AXES))


def one_device_mesh() -> Mesh:
    """A mesh of this process's first device alone."""
    leave_out_missing_tpu()
    return make_mesh(devices=jax.local_devices()[:1])


def mesh_shape(
    data: int, fsdp: int, tensor: int, attn_dp: int = 1, *, devices: int
) -> tuple[int, ...]:
    """Sizes of `AXES` in a mesh of so many devices; `fsdp=-1` takes what the others leave.

    Raises:
      ValueError: the sizes do not multiply to the number of devices.
    """
    if fsdp == -1:
        fsdp = max(devices // (data * attn_dp * tensor), 1)
    shape = data, fsdp, attn_dp, tensor
    if math.prod(shape) != devices:
        raise ValueError(
            f"mesh {_written(shape)} needs {math.prod(shape)} devices, but there are {devices}; "
            f"set {', '.join(f'mesh.{axis}' for axis in AXES)}"
        )
    return shape


def _written(shape: Sequence[int]) -> str:
    return " x ".join(f"{axis}={size}" for axis, size in zip(AXES, shape, strict=True))


def _slice_index(device: jax.Device) -> int:
    """Index of the TPU slice; 0 on other platforms, where the attribute counts hosts."""
    return (getattr(device, "slice_index", 0) or 0) if device.platform == "tpu" else 0


def _check_slices(slices: Sequence[int], data: int) -> None:
    sizes = collections.Counter(slices)
    if data % len(sizes):
        raise ValueError(
            f"mesh.data={data} is no multiple of the {len(sizes)} slices that the devices belong "
            f"to, and no other axis may cross slices; set mesh.data={len(sizes)}"
        )
    if len(set(sizes.values())) > 1:
        raise ValueError(
            f"slices of {' and '.join(map(str, sizes.values()))} devices; a mesh needs slices of "
            "the same size"
        )


def _on_the_torus(shape: tuple[int, ...], devices: Sequence[jax.Device], slices: int) -> np.ndarray:
    """Devices in a mesh's shape, laid out by JAX where it can.

    Splitting an axis of the torus is allowed: four-way `tensor` on a torus of 8 x 8 takes half of
    an axis, and its devices are neighbours still.
    """
    try:
        if slices == 1:
            return mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
        inside, across = (shape[0] // slices, *shape[1:]), (slices, 1, 1, 1)
        return mesh_utils.create_hybrid_device_mesh(
            inside, across, devices, allow_split_physical_axes=True
        )
    except (AssertionError, NotImplementedError, ValueError, IndexError):
        logging.warning(
            "mesh %s is not laid out along the links between the %d devices, which costs "
            "bandwidth: JAX knows no such order, and they stand in their own",
            *(_written(shape), len(devices)),
        )
    by_slice = sorted(devices, key=_slice_index)  # stable, and `data` is the outermost axis
    return np.array(by_slice, dtype=object).reshape(shape)
