"""What a step leaves behind: a line of metrics, the progress line, and now and then completions."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
from jaxtyping import Int

from lrt_jax.algorithms.optimizer import learning_rate
from lrt_jax.config import Config
from lrt_jax.data.schema import FIRST, SECOND, PairRecord, Target
from lrt_jax.parallel import processes
from lrt_jax.reporting.completions import Completion, CompletionsWriter
from lrt_jax.reporting.metrics import MetricsWriter, ProgressLine
from lrt_jax.reporting.warnings import Warnings
from lrt_jax.rl.completions import Completions
from lrt_jax.rl.engine import Heard
from lrt_jax.rl.rewards import Rewards, Verdicts, reward_metrics
from lrt_jax.training.monitor import Monitor
from lrt_jax.training.setup import Run

PROGRESS_SECONDS = 2.0  # at least, between two lines


@dataclasses.dataclass(frozen=True)
class StepReport:
    """What is to be told of a step, whatever the algorithm.

    Attributes:
      metrics: a line of `metrics.jsonl`, but for rates and times.
      shown: what the progress line begins with.
      terms: what the last number shown is made of.
      tokens: generated, or learnt from.
      samples: makes the completions to keep, where it is their turn.
    """

    metrics: dict[str, float]
    shown: dict[str, float]
    terms: dict[str, float]
    tokens: int
    samples: Callable[[], list[Completion]]


@dataclasses.dataclass(frozen=True)
class Outcome:
    """Everything that is known of a step of GRPO, of the rows of all processes."""

    target: Target
    completions: Completions
    heard: Heard
    verdicts: Verdicts
    rewards: Rewards
    advantages: np.ndarray  # float32 [B, G]
    metrics: dict[str, float]  # of the update

    def report(self, run: Run) -> StepReport:
        """What is to be told of the step."""
        completions = self.completions
        metrics = {
            **reward_metrics(self.rewards),
            **self.metrics,
            **_completion_metrics(completions, self.heard, self.target.label),
            **_held_against_truth(run, self),
        }
        return StepReport(
            metrics=metrics,
            shown={"reward": metrics["reward/total/mean"]},
            terms={name: metrics[f"reward/{name}/mean"] for name in self.rewards.terms},
            tokens=int(completions.length.sum()),
            samples=lambda: _samples(run, self),
        )


@dataclasses.dataclass(frozen=True)
class Studied:
    """Everything that is known of a supervised step, on the host."""

    metrics: dict[str, float]
    tokens: int

    def report(self, run: Run) -> StepReport:
        """What is to be told of the step."""
        shown = {"loss": self.metrics["loss"], "sure of": self.metrics["sure_of"]}
        return StepReport(self.metrics, shown, {}, self.tokens, lambda: [])


@dataclasses.dataclass(frozen=True)
class Recorder:
    """Where the steps of a run are told of, by the first process. A context manager."""

    run: Run
    monitor: Monitor
    book: "_Book | None"  # the first process's

    @classmethod
    def open(cls, run: Run, workdir: Path, done: int, say: Callable[[str], None]) -> "Recorder":
        """For the steps after `done`; what was told of later ones is cut off."""
        book = _Book.open(run.config, workdir, done, say) if processes.is_first() else None
        return cls(run, Monitor(), book)

    def __enter__(self) -> "Recorder":
        self.monitor.__enter__()
        return self

    def __exit__(self, *exc) -> None:
        self.monitor.__exit__(*exc)
        if self.book:
            self.book.metrics.close()

    def record(self, step: int, outcome: Outcome | Studied) -> None:
        """Writes a line of metrics and one of progress, and now and then completions; warns."""
        if not self.book:
            return
        report = outcome.report(self.run)
        config, updates = self.run.config, self.run.config.loss.num_iterations
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
    def open(cls, config: Config, workdir: Path, done: int, say: Callable[[str], None]) -> "_Book":
        return cls(
            metrics=MetricsWriter(workdir, resume_step=done),
            samples=CompletionsWriter(workdir, tuple(config.reward_weights)),
            progress=ProgressLine(config.steps, start=done, every_seconds=PROGRESS_SECONDS),
            warnings=Warnings(say),
        )


def _completion_metrics(
    completions: Completions, heard: Heard, label: Int[np.ndarray, " B"]
) -> dict[str, float]:
    """What can be said of completions and their listeners, defined as in an evaluation.

    Args:
      completions: of the step.
      heard: what the listeners say of them.
      label: of each pair as it is shown, FIRST, SECOND or TIE.
    """
    said = completions.choice >= 0
    figures = {
        "completions/truncated": completions.truncated.mean(),
        "completions/unparsed": 1.0 - said.mean(),
        "completions/first_position_rate": (completions.choice[said] == FIRST).mean()
        if said.any()
        else 0.5,
    }
    if completions.kept.min() < 1.0:  # top_p: how far sampling is from the trainer's distribution
        figures["completions/nucleus_probability"] = completions.kept.mean()
    if heard.p_first is not None:
        other = (heard.p_first > 0.5) != (completions.choice == FIRST)
        figures["listener/contradiction_rate"] = other[said].mean() if said.any() else 0.0
        figures["listener/cut_traces"] = heard.cut_traces.sum()
        preferred = np.where(label[:, None] == FIRST, heard.p_first, 1.0 - heard.p_first)
        defined = said & np.isin(label, (FIRST, SECOND))[:, None]
        if defined.any():
            figures["listener/confidence"] = preferred[defined].mean()
    return {name: float(value) for name, value in figures.items()}


def _held_against_truth(run: Run, outcome: Outcome) -> dict[str, float]:
    """Means over the completions that describe something, where the ground truth is known."""
    if run.truth is None:
        return {}
    target, traces = outcome.target, outcome.completions.traces
    columns = run.truth.judge(target.pair, target.swapped, traces)
    known = columns["trace_objects"] > 0
    return {
        f"completions/{name}": float(values[known].mean())
        for name, values in columns.items()
        if known.any()
    }


def _samples(run: Run, outcome: Outcome) -> list[Completion]:
    rows = []
    for b, (row, swapped) in enumerate(
        zip(outcome.target.pair, outcome.target.swapped, strict=True)
    ):
        record = run.prepared.pair(int(row))
        keys = tuple(run.prepared.image(index).key for index in record.image_index)
        shown = keys[::-1] if swapped else keys
        members = range(outcome.completions.choice.shape[1])
        rows += [_sample(outcome, record, shown, b, g) for g in members]
    return rows


def _sample(
    outcome: Outcome, record: PairRecord, keys: tuple[str, str], b: int, g: int
) -> Completion:
    completions, target = outcome.completions, outcome.target
    return Completion(
        pair_uid=record.uid,
        image_keys=keys,
        swapped=bool(target.swapped[b]),
        caption=record.prompt,
        member=g,
        text=completions.texts[b][g],
        well_formed=bool(completions.well_formed[b, g]),
        choice=int(completions.choice[b, g]),
        p_first=float(outcome.verdicts.p_first[b]),
        listener_p_first=_heard(outcome.heard.p_first, completions, b, g),
        terms={name: float(v[b, g]) for name, v in outcome.rewards.terms.items()},
        total=float(outcome.rewards.total[b, g]),
        advantage=float(outcome.advantages[b, g]),
        tokens=int(completions.length[b, g]),
        truncated=bool(completions.truncated[b, g]),
    )


def _heard(heard, completions: Completions, b: int, g: int) -> float | None:
    if heard is None or completions.choice[b, g] < 0:
        return None
    return float(heard[b, g])
