"""Waiting for the next batch: what becomes of workers that are killed, stopped or stuck."""

import multiprocessing
import signal
import threading
from collections.abc import Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TypeVar

from absl import logging

T = TypeVar("T")

POLL, POLLS = 60.0, 15  # seconds between two looks at the workers, and how often until they end
OF_GRAIN = "Worker process was terminated"  # how its error begins, which has no type of its own
STOPPED = ("T", "t")  # states of a process: by a signal, or a debugger
GOES_ON = "the same command goes on from the last checkpoint"


class WatchedIterator(Iterator[T]):
    """An iterator of grain's, which may have worker processes; each wait for an element is watched.

    Args:
      iterator: of the batches.

    Its `__next__` raises:
      ChildProcessError: a worker was killed.
      TimeoutError: workers were stopped, or gave nothing for `POLLS` times `POLL` seconds.
    """

    def __init__(self, iterator: Iterator[T]):
        self.iterator = iterator
        self._workers: set[BaseProcess] = set()  # that ever were seen alive

    def __next__(self) -> T:
        self._workers.update(multiprocessing.active_children())  # which forgets the dead
        came, given_up = threading.Event(), []
        threading.Thread(target=_watch, args=(came, given_up), daemon=True).start()
        try:
            return next(self.iterator)
        except RuntimeError as error:
            if not str(error).startswith(OF_GRAIN):
                raise
            if given_up:
                raise TimeoutError(
                    f"no batch came for {POLL * POLLS:g} s: {', '.join(given_up)}; see to the disk "
                    f"or network that the images are read from, then {GOES_ON}"
                ) from error
            raise ChildProcessError(
                f"{_killed(self._workers)}: often by the system, for want of memory; take fewer "
                f"data.workers or data.threads, and {GOES_ON}"
            ) from error
        finally:
            came.set()
            self._workers.update(multiprocessing.active_children())  # it may have begun some


def _killed(workers: set[BaseProcess]) -> str:
    """Which worker was lost, and how, as far as that is known."""
    lost = [worker for worker in workers if worker.exitcode]
    if not lost:
        return "a worker process that prepares batches was killed as it began"
    number, code = lost[0].pid, lost[0].exitcode
    by = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"
    return f"process {number}, a worker that prepares batches, {by}"


def _watch(came: threading.Event, given_up: list[str]) -> None:
    """Logs every `POLL` seconds what is waited for; after `POLLS` kills it, so that the wait ends.

    Polls are counted, not seconds: where all was stopped together, as by Ctrl-Z, none is missed.
    """
    for poll in range(1, POLLS + 1):
        if came.wait(POLL):
            return
        workers = multiprocessing.active_children()
        what = ", ".join(map(_state, workers)) or "threads that read images"
        logging.warning("no batch for %g s; waiting for %s", poll * POLL, what)
    given_up += map(_state, workers)
    for worker in workers:
        worker.kill()  # which a stopped process hears too


def _state(worker: BaseProcess) -> str:
    """A worker, and what is to be done if somebody has stopped it."""
    try:
        about = Path(f"/proc/{worker.pid}/stat").read_text(encoding="utf-8", errors="replace")
        state = about.rpartition(")")[2].split()[0]  # behind the program's name
    except OSError:  # gone, or a system without such files
        state = ""
    stopped = f" is stopped (kill -CONT {worker.pid} lets it go on)" if state in STOPPED else ""
    return f"worker process {worker.pid}{stopped}"
