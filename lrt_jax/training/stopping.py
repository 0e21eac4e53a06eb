"""Ending a run that is asked to stop, by a signal of `NAMES`, without losing what it has done."""

import logging
import signal
import threading
from collections.abc import Callable
from typing import NoReturn

from lrt_jax.parallel import processes
from lrt_jax.parallel.shutdown import GOES_ON, NAMES, StopSignals, install_handlers

logger = logging.getLogger(__name__)

POLL, GRACE = 0.05, 2.0  # seconds between two polls, and for the loop to end in order


class Stopper:
    """Takes requests to stop while it is open. A context manager, of the main thread.

    * The loop stops after the step that is running, and saves it; of several processes one request
      is enough, and all stop after the same step.
    * Where only the running step would be lost, the process ends at once, or once the checkpoint
      that is being written is complete: compiling or an evaluation may take too long to wait for.
    * A second request ends the process at once.
    * SIGHUP is never a second request: a closed terminal sends it several times.

    Args:
      unsaved: returns whether a step is done that no complete checkpoint holds.
    """

    def __init__(self, unsaved: Callable[[], bool]):
        self._unsaved = unsaved
        self.signal: int | None = None  # that asked
        self._closed = threading.Event()
        self._signals = StopSignals(self._on)
        self._before: dict[int, object] = {}

    def __enter__(self) -> "Stopper":
        self._before = install_handlers(lambda *_: None)
        self._signals.__enter__()
        return self

    def __exit__(self, *exc) -> None:
        self._signals.__exit__(*exc)
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._closed.set()

    @property
    def asked(self) -> bool:
        """Whether somebody wants the run to stop."""
        return self.signal is not None

    def end(self, step: int, steps: int) -> NoReturn:
        """Ends the run, whose checkpoint of `step` is on disk."""
        by = NAMES.get(self.signal, "a request to another process")
        logger.info(f"stopped by {by} after step {step} of {steps}, which is saved; {GOES_ON}")
        raise processes.EndTogether(128 + (self.signal or signal.SIGTERM))

    def _on(self, number: int) -> None:
        if number == signal.SIGHUP and self.asked:
            return
        again, self.signal = self.signal not in (None, signal.SIGHUP), number
        if again:
            self._end_at_once("asked twice")
        elif self._unsaved():
            by = NAMES[number]
            logger.info(f"{by}: stopping once this step is saved; once more stops at once")
            threading.Thread(target=self._end_when_saved, daemon=True).start()
        else:
            self._end_at_once("nothing was unsaved")

    def _end_when_saved(self) -> None:
        while not self._closed.wait(POLL):
            # What was saved may be followed by another step and its checkpoint within the grace.
            if not self._unsaved() and not self._closed.wait(GRACE) and not self._unsaved():
                self._end_at_once("all is saved")

    def _end_at_once(self, why: str) -> None:
        logger.info(f"stopped by {NAMES[self.signal]} at once ({why}); {GOES_ON}")
        processes.end(128 + self.signal, f"stopped by {NAMES[self.signal]}")
