"""What a step leaves behind: a line of metrics, the progress line, and now and then completions."""

from pathlib import Path
from typing import Any

from lrt_jax.algorithms.api import Algorithm
from lrt_jax.algorithms.optimizer import learning_rate
from lrt_jax.config import Config
from lrt_jax.parallel import processes
from lrt_jax.reporting.completions import CompletionsWriter
from lrt_jax.reporting.metrics import MetricsWriter, ProgressLine
from lrt_jax.reporting.monitor import Monitor
from lrt_jax.reporting.warnings import Warnings

PROGRESS_SECONDS = 2.0  # at least, between two lines


class StepLogger:
    """Logs the steps of a run, in the first process. A context manager.

    Args:
      algorithm: of the run.
      workdir: of the run.
      done: the step after which it goes on; lines about later ones are removed.
    """

    def __init__(self, algorithm: Algorithm, workdir: Path, done: int):
        self._algorithm, self.monitor = algorithm, Monitor()
        self._book = _Book(algorithm.run.config, workdir, done) if processes.is_first() else None

    def __enter__(self) -> "StepLogger":
        self.monitor.__enter__()
        return self

    def __exit__(self, *exc) -> None:
        self.monitor.__exit__(*exc)
        if self._book:
            self._book.metrics.close()

    def record(self, step: int, result: Any) -> None:
        """Writes a line of metrics and one of progress, and now and then completions; warns."""
        if not self._book:
            return
        report, config = self._algorithm.report(result), self._algorithm.run.config
        updates = config.loss.num_iterations
        rate = learning_rate(config.optimizer, config.steps * updates)((step - 1) * updates)
        timed = self.monitor.take(report.tokens)
        metrics = {**report.metrics, "learning_rate": float(rate), **timed}
        self._book.metrics.write(step, metrics)
        self._book.progress.update(step, report.shown, report.terms, report.tokens)
        self._book.warnings.check(step, metrics)
        due = config.completions_every and (step == 1 or step % config.completions_every == 0)
        if due and (rows := report.samples()):
            self._book.samples.write(step, rows)


class _Book:
    """The files and the lines of a run."""

    def __init__(self, config: Config, workdir: Path, done: int):
        self.metrics = MetricsWriter(workdir, resume_step=done)
        self.samples = CompletionsWriter(workdir, tuple(config.reward_weights))
        self.progress = ProgressLine(config.steps, start=done, every_seconds=PROGRESS_SECONDS)
        self.warnings = Warnings()
