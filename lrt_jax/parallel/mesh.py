"""The device mesh. Axes: `data` (across slices), `fsdp` (inside a slice), `tensor` (a layer)."""

from collections.abc import Sequence

import jax
from jax.sharding import Mesh

AXES = ("data", "fsdp", "tensor")


def make_mesh(
    data: int = 1, fsdp: int = -1, tensor: int = 1, *, devices: Sequence[jax.Device] | None = None
) -> Mesh:
    """A mesh of the given sizes; `fsdp=-1` takes the devices that the other axes leave.

    Raises:
      ValueError: the sizes do not multiply to the number of devices.
    """
    devices = list(devices if devices is not None else jax.devices())
    if fsdp == -1:
        fsdp = max(len(devices) // (data * tensor), 1)
    if data * fsdp * tensor != len(devices):
        raise ValueError(
            f"mesh data={data} x fsdp={fsdp} x tensor={tensor} needs {data * fsdp * tensor} "
            f"devices, but there are {len(devices)}; set mesh.data, mesh.fsdp, mesh.tensor"
        )
    return jax.make_mesh(
        (data, fsdp, tensor),
        AXES,
        devices=devices,
        axis_types=(jax.sharding.AxisType.Auto,) * len(AXES),
    )
