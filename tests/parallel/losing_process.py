"""One of several processes of which one is lost; run by test_processes.py.

    python -m tests.parallel.losing_process HOW VICTIM WORKDIR ADDRESS COUNT INDEX

Takes steps together with the others, until the victim is killed, frozen, fails, is asked to stop,
or has done. A line with the time is what it says last.
"""

import os
import signal
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp

from lrt_jax.parallel import processes
from lrt_jax.parallel.collectives import shard_local_batch
from lrt_jax.parallel.mesh import make_mesh
from tests.parallel.world import PATIENCE

STEPS, LAST = 60, 5  # all, and those before the victim is lost


def main(how: str, victim: int, workdir: str) -> None:
    """Steps; a meeting and an agreement before them."""
    folder = Path(workdir) / ("apart" if how == "apart" and victim == processes.index() else "run")
    folder.mkdir(exist_ok=True)
    processes.check_shared(folder)
    if how == "absent" and victim == processes.index():
        time.sleep(3 * PATIENCE)
    processes.barrier("ready", PATIENCE)
    processes.assert_equal(
        "colour", "red" if how == "differ" and victim == processes.index() else "blue"
    )
    mesh = make_mesh()
    total = jax.jit(jnp.sum)
    for step in range(STEPS):
        if step == LAST and processes.index() == victim:
            lose(how)
        float(total(shard_local_batch(jnp.ones(1), mesh)))
        time.sleep(0.02)


def lose(how: str) -> None:
    """What happens to the victim."""
    print(time.time(), flush=True)
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "freeze":
        os.kill(os.getpid(), signal.SIGSTOP)
    if how == "fail":
        sys.exit("error: data.path: /data/set: no such folder\n(LRT_DEBUG=1 shows where)")
    if how == "stop":
        processes.end(130, "stopped by Ctrl-C")
    if how == "late":
        time.sleep(2 * PATIENCE)


if __name__ == "__main__":
    address, count, index = sys.argv[4], int(sys.argv[5]), int(sys.argv[6])
    how, victim = sys.argv[1], int(sys.argv[2])
    with processes.together():
        hasty = how == "hasty" and victim == index
        processes.initialize(address, count, index, PATIENCE / 4 if hasty else PATIENCE)
        main(how, victim, sys.argv[3])
