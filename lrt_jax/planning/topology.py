"""TPUs by name, without one: devices to compile for, and what a chip can do."""

import dataclasses
import math
import os
import re
from collections.abc import Sequence

import jax

GIB = 2**30
LOCK = "/tmp/libtpu_lockfile"
# That libtpu is known to take; others of the same form may do too.
KNOWN = {
    "v4": ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8"),
    "v5e": ("2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16"),
    "v5p": ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8"),
    "v6e": ("2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16"),
}


@dataclasses.dataclass(frozen=True)
class Chip:
    """A TPU chip, by its maker's figures but for clock and dollars.

    Attributes:
      flops: a second, in bfloat16.
      bandwidth: bytes a second between HBM and the cores.
      hbm: GiB that a program may have, as the compiler states them.
      clock: Hz, by which the compiler's cycles are divided.
      link: bytes a second on the wire, of all its links together, roughly.
      dollars: an hour, on demand, roughly.
    """

    flops: float
    bandwidth: float
    hbm: float
    clock: float
    link: float
    dollars: float


CHIPS = {
    "v4": Chip(275e12, 1_228e9, 32.0, 1.05e9, 300e9, 3.22),
    "v5e": Chip(197e12, 819e9, 15.75, 1.5e9, 55e9, 1.20),
    "v5p": Chip(459e12, 2_765e9, 95.0, 1.75e9, 215e9, 4.20),
    "v6e": Chip(918e12, 1_640e9, 31.25, 1.75e9, 109e9, 2.70),
}


@dataclasses.dataclass(frozen=True)
class Topology:
    """A slice of TPU chips, or several that train together.

    Attributes:
      name: such as `v5e:8x8`.
      slices: of that name.
    """

    name: str
    slices: int = 1

    def __post_init__(self):
        kind, _, shape = self.name.partition(":")
        if kind not in CHIPS:
            newer = kind in ("v7x", "tpu7x", "ironwood")
            why = "its figures are not known here" if newer else "no such chip is known"
            raise ValueError(f"--topology={self.name}: {why}; {_listed()}")
        if not re.fullmatch(r"[1-9]\d*(x[1-9]\d*)+", shape):
            raise ValueError(f"--topology={self.name}: {shape!r} is no shape; {_listed()}")

    @property
    def chip(self) -> Chip:
        """One of its chips."""
        return CHIPS[self.kind]

    @property
    def kind(self) -> str:
        """Name of its chips."""
        return self.name.partition(":")[0]

    @property
    def chips(self) -> int:
        """Of all slices together."""
        return self.slices * math.prod(map(int, self.name.partition(":")[2].split("x")))

    def devices(self) -> Sequence[jax.Device]:
        """Devices that programs can be compiled for, and not run on.

        Takes libtpu's lock until the process ends.

        Raises:
          ValueError: libtpu is not there, is in use, or does not know the topology.
        """
        from jax.experimental import topologies

        several = {"num_slices": self.slices} if self.slices > 1 else {}
        try:
            return topologies.get_topology_desc(
                platform="tpu", topology_name=self.name, **several
            ).devices
        except Exception as error:  # whose types are the runtime's own
            raise ValueError(f"--topology={self.name}: {_why(error)}") from error


def compile_for_tpus() -> None:
    """Sets JAX up to compile for TPUs on a machine without one; to be called before it starts."""
    settings = {
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_ACCELERATOR_TYPE": "v5p-8",  # any that is valid
        "TPU_WORKER_HOSTNAMES": "localhost",
    }
    for name, value in settings.items():
        os.environ.setdefault(name, value)
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_enable_compilation_cache", False)  # its seconds would not be true


def _listed() -> str:
    names = ", ".join(f"{kind}:{shape}" for kind in KNOWN for shape in KNOWN[kind][::2])
    return f"there are, among others, {names}"


def _why(error: Exception) -> str:
    said = " ".join(str(error).split())[:300]
    if "lockfile" in said or "already in use" in said:
        return (
            f"another process uses libtpu, which one can do at a time (lock {LOCK}); wait until "
            "it has ended"
        )
    if "libtpu" in said or isinstance(error, ImportError):
        return f"libtpu cannot be used ({said}); pip install libtpu, which is for Linux on x86-64"
    return f"libtpu does not know it ({said}); {_listed()}"
