"""Run as a process of its own by `test_mesh.py`: meshes on TPU topologies that nobody has here.

Prints a JSON list of `describe(mesh)`, one for each case.
"""

import json
import logging
import sys

from jax.experimental import topologies

from lrt_jax.parallel.mesh import make_mesh


class Told(logging.Handler):
    """Keeps what was logged."""

    def __init__(self):
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def describe(topology: str, slices: int, chips: int | None, axes: dict[str, int]) -> dict:
    """A mesh on a topology, or on its first chips only.

    Returns:
      Its `shape`; `slices_of_data`, the slices that the devices of each index of `data` belong to;
      `widest`, the largest distance of two devices in one group of `tensor`, in chips; `told`, what
      was logged; or `error`.
    """
    told = Told()
    logging.getLogger("absl").addHandler(told)
    arguments = {"num_slices": slices} if slices > 1 else {}
    found = topologies.get_topology_desc(platform="tpu", topology_name=topology, **arguments)
    try:
        devices = make_mesh(**axes, devices=found.devices[:chips]).devices
    except ValueError as error:
        return {"error": str(error)}
    finally:
        logging.getLogger("absl").removeHandler(told)
    return {
        "shape": list(devices.shape),
        "slices_of_data": [
            sorted({getattr(device, "slice_index", 0) for device in rank.flat}) for rank in devices
        ],
        "widest": max(map(widest, devices.reshape(-1, devices.shape[-1]))),
        "devices": len(set(devices.flat)),
        "told": told.lines,
    }


def widest(group) -> int:
    """Largest distance of two devices, along the axes of the torus and not around it."""
    pairs = ((a.coords, b.coords) for a in group for b in group)
    return max(sum(abs(x - y) for x, y in zip(a, b, strict=True)) for a, b in pairs)


if __name__ == "__main__":
    print(json.dumps([describe(*case) for case in json.loads(sys.argv[1])]))
