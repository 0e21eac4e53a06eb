"""What may become of a loader's workers, and what its user is told then."""

import multiprocessing
import os
import signal

import pytest

from lrt_jax.data.input import waiting


def killed(batches) -> None:
    """One is killed, as the system does for want of memory."""
    worker = multiprocessing.active_children()[0]
    victim = worker.pid
    os.kill(victim, signal.SIGKILL)
    worker.join()  # it is known to be dead before anybody waits for it
    told = f"process {victim}, a worker .* was killed by SIGKILL: .* memory; take fewer"
    with pytest.raises(ChildProcessError, match=told):
        _take_many(batches)


def stopped(batches) -> None:
    """All are stopped, and stay so."""
    workers = [process.pid for process in multiprocessing.active_children()]
    for worker in workers:
        os.kill(worker, signal.SIGSTOP)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(waiting, "POLL", 0.3)
        patch.setattr(waiting, "POLLS", 2)
        with pytest.raises(TimeoutError, match="no batch came for 0.6 s") as caught:
            _take_many(batches)
    for worker in workers:
        assert f"{worker} is stopped (kill -CONT {worker} lets it go on)" in str(caught.value)


def paused(batches) -> None:
    """One is stopped, and goes on once that is told."""
    worker = multiprocessing.active_children()[0].pid
    os.kill(worker, signal.SIGSTOP)
    told, state = [], waiting._state

    def go_on(process):
        told.append(state(process))
        os.kill(worker, signal.SIGCONT)
        return told[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(waiting, "POLL", 0.3)
        patch.setattr(waiting, "_state", go_on)
        _take_many(batches)
    assert any(f"{worker} is stopped" in line for line in told)


def _take_many(batches) -> None:
    for _ in range(20):  # what is prepared ahead still comes
        next(batches)
