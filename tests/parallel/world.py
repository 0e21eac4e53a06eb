"""Several real processes on loopback, which the tests start together and wait for."""

import dataclasses
import json
import os
import pickle
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tests.compiling import FAST
from tests.patience import LONG

ROOT = Path(__file__).parents[2]
PATIENCE = 4.0  # seconds, in which the processes of a test miss one another


@dataclasses.dataclass(frozen=True)
class Ended:
    """How a process ended, what it said, and how long after the start of all that was."""

    code: int | None  # None where it was still running, and was killed
    output: str
    seconds: float


class World:
    """Processes of one run. A context manager, which kills those that are left.

    Args:
      module: with arguments, that each runs by `python -m`.
      count: of processes.
      devices: of each.
      flags: whether to name address, number and count by the flags of the commands; else they are
        the module's next three arguments.
    """

    def __init__(self, module: Sequence[str], count: int, devices: int = 1, *, flags: bool = False):
        address = f"127.0.0.1:{free_port()}"
        self._began = time.monotonic()
        forced = f"--xla_force_host_platform_device_count={devices} {FAST}"
        env = os.environ | {"XLA_FLAGS": forced, "JAX_PLATFORMS": "cpu"}
        self.processes = [
            subprocess.Popen(
                [
                    sys.executable,
                    "-u",
                    "-m",
                    *module,
                    *_cluster_flags(address, count, index, flags),
                ],
                cwd=ROOT,
                env=env,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            for index in range(count)
        ]

    def __enter__(self) -> "World":
        return self

    def __exit__(self, *exc) -> None:
        for process in self.processes:
            process.kill()
            process.wait()

    def wait(self, indices: Sequence[int] | None = None, timeout: float = LONG) -> list[Ended]:
        """Waits for some of the processes, or all."""
        chosen = range(len(self.processes)) if indices is None else indices
        return [self._wait(self.processes[index], timeout) for index in chosen]

    def _wait(self, process: subprocess.Popen, timeout: float) -> Ended:
        try:
            output, _ = process.communicate(timeout=timeout)
            code = process.returncode
        except subprocess.TimeoutExpired:
            process.kill()
            output, code = process.communicate()[0], None
        return Ended(code, output, time.monotonic() - self._began)


def told(module: str, order: dict, count: int, folder: Path) -> list:
    """What each process has to tell: it is run with an order, in JSON, and the folder to put it in.

    The order and the folder come before address, number and index.
    """
    with World([module, json.dumps(order), str(folder)], count) as world:
        for ended in world.wait():
            assert ended.code == 0, ended.output
    return [pickle.loads((folder / f"{index}.pickle").read_bytes()) for index in range(count)]


def free_port() -> int:
    """One that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def _cluster_flags(address: str, count: int, index: int, flags: bool) -> list[str]:
    if not flags:
        return [address, str(count), str(index)]
    return [
        f"--coordinator_address={address}",
        f"--num_processes={count}",
        f"--process_id={index}",
        f"--patience={PATIENCE}",
    ]
