"""What a step leaves behind: a line of metrics, the progress line, and now and then completions."""

import dataclasses
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


@dataclasses.dataclass(frozen=True)
class StepLogger:
    """Where the steps of a run are told of, by the first process. A context manager."""

    algorithm: Algorithm
    monitor: Monitor
    book: "_Book | None"  # the first process's

    @classmethod
    def open(cls, algorithm: Algorithm, workdir: Path, done: int) -> "StepLogger":
        """For the steps after `done`; what was told of later ones is cut off."""
        config = algorithm.run.config
        book = _Book.open(config, workdir, done) if processes.is_first() else None
        return cls(algorithm, Monitor(), book)

    def __enter__(self) -> "StepLogger":
        self.monitor.__enter__()
        return self

    def __exit__(self, *exc) -> None:
        self.monitor.__exit__(*exc)
        if self.book:
            self.book.metrics.close()

    def record(self, step: int, result: Any) -> None:
        """Writes a line of metrics and one of progress, and now and then completions; warns."""
        if not self.book:
            return
        report, config = self.algorithm.report(result), self.algorithm.run.config
        updates = config.loss.num_iterations
        rate = learning_rate(config.optimizer, config.steps * updates)((step - 1) * updates)
        metrics = {
            **report.metrics,
            "learning_rate": float(rate),
            **self.monitor.take(report.tokens),
        }
        self.book.metrics.write(step, metrics)
        self.book.progress.update(step, report.shown, report.terms, report.tokens)
        self.book.warnings.look_at(step, metrics)
        due = config.completions_every and (step == 1 or step % config.completions_every == 0)
        if due and (rows := report.samples()):
            self.book.samples.write(step, rows)


@dataclasses.dataclass(frozen=True)
class _Book:
    """The files and the lines of a run."""

    metrics: MetricsWriter
    samples: CompletionsWriter
    progress: ProgressLine
    warnings: Warnings

    @classmethod
    def open(cls, config: Config, workdir: Path, done: int) -> "_Book":
        return cls(
            metrics=MetricsWriter(workdir, resume_step=done),
            samples=CompletionsWriter(workdir, tuple(config.reward_weights)),
            progress=ProgressLine(config.steps, start=done, every_seconds=PROGRESS_SECONDS),
            warnings=Warnings(),
        )
