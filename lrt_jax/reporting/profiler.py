"""A trace of some steps of a run: what the devices and the host did, and when."""

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path

import jax

logger = logging.getLogger(__name__)

FOLDER = "profile"  # in the workdir; `xprof --logdir=WORKDIR/profile` shows it


class Profiler(contextlib.AbstractContextManager):
    """Traces some steps with JAX's profiler. A context manager.

    Args:
      steps: to trace, one after the other.
      workdir: of the run.
    """

    def __init__(self, steps: range, workdir: Path):
        self._steps, self._folder = steps, workdir / FOLDER
        self._running = False

    def __exit__(self, *exc) -> None:
        self._stop()

    @contextlib.contextmanager
    def step(self, number: int) -> Iterator[None]:
        """What is done within is one step, by its number."""
        if number in self._steps and not self._running:
            jax.profiler.start_trace(self._folder)
            self._running = True
        with jax.profiler.StepTraceAnnotation("step", step_num=number):
            yield
        if number + 1 not in self._steps:
            self._stop()

    def _stop(self) -> None:
        if self._running:
            self._running = False
            jax.profiler.stop_trace()
            logger.info(f"profile: xprof --logdir={self._folder}")
