"""Ending a run that is asked to stop, by a signal of `NAMES`, without losing what it has done."""

import logging
import signal
import threading
from collections.abc import Callable
from typing import NoReturn

from lrt_jax.parallel import processes
from lrt_jax.parallel.shutdown import GOES_ON, NAMES, StopSignals, listen

logger = logging.getLogger(__name__)

POLL, GRACE = 0.05, 2.0  # seconds between two looks, and for the loop to end in order


class Stopper:
    """Hears requests to stop while it is open. A context manager, of the main thread.

    A request is answered by the loop, after the step that is running. Where that step would be the
    only thing to lose, the process ends at once instead, or as soon as the checkpoint is whole that
    is being written: compiling or an evaluation may take longer than whoever asks will wait. A
    second request ends it at once in any case; a closed terminal is none, since whoever closes it
    hears of it from the shell, the system and its session, each by itself.

    Of several processes it is enough that one is asked: the loop has all stop after the same step.

    Args:
      keeps: whether there is work that no finished checkpoint holds yet.
    """

    def __init__(self, keeps: Callable[[], bool]):
        self._keeps = keeps
        self.signal: int | None = None  # that asked
        self._closed = threading.Event()
        self._heard = StopSignals(self._on)
        self._before: dict[int, object] = {}

    def __enter__(self) -> "Stopper":
        self._before = listen(lambda *_: None)
        self._heard.__enter__()
        return self

    def __exit__(self, *exc) -> None:
        self._heard.__exit__(*exc)
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
        elif self._keeps():
            by = NAMES[number]
            logger.info(f"{by}: stopping once this step is saved; once more stops at once")
            threading.Thread(target=self._end_when_saved, daemon=True).start()
        else:
            self._end_at_once("nothing was unsaved")

    def _end_when_saved(self) -> None:
        while not self._closed.wait(POLL):
            # What was saved may be followed by another step and its checkpoint within the grace.
            if not self._keeps() and not self._closed.wait(GRACE) and not self._keeps():
                self._end_at_once("all is saved")

    def _end_at_once(self, why: str) -> None:
        logger.info(f"stopped by {NAMES[self.signal]} at once ({why}); {GOES_ON}")
        processes.end(128 + self.signal, f"stopped by {NAMES[self.signal]}")
