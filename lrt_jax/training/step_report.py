"""What a step leaves behind: a line of metrics, the progress line, and now and then completions."""

import dataclasses

import numpy as np

from lrt_jax.data.schema import FIRST, Batch, PairRecord
from lrt_jax.parallel.hosts import is_first_process
from lrt_jax.reporting.completions import Completion, CompletionsWriter
from lrt_jax.reporting.metrics import MetricsWriter, ProgressLine
from lrt_jax.rl.completions import Completions
from lrt_jax.rl.engine import Heard
from lrt_jax.rl.rewards import Rewards, Verdicts, reward_metrics
from lrt_jax.training.monitor import Monitor
from lrt_jax.training.optimizer import learning_rate
from lrt_jax.training.setup import Run


@dataclasses.dataclass(frozen=True)
class Outcome:
    """Everything that is known of a step, on the host."""

    batch: Batch
    completions: Completions
    heard: Heard
    verdicts: Verdicts
    rewards: Rewards
    advantages: np.ndarray  # float32 [B, G]
    metrics: dict[str, float]  # of the update


def report(
    run: Run,
    step: int,
    outcome: Outcome,
    monitor: Monitor,
    writer: MetricsWriter,
    samples: CompletionsWriter,
    progress: ProgressLine,
) -> None:
    """One line of metrics, the progress line, and now and then the completions."""
    config, completions = run.config, outcome.completions
    tokens = int(completions.length.sum())
    updates = config.loss.num_iterations
    rate = learning_rate(config.optimizer, config.steps * updates)((step - 1) * updates)
    metrics = {
        **reward_metrics(outcome.rewards),
        **outcome.metrics,
        **_completion_metrics(completions, outcome.heard),
        "learning_rate": float(rate),
        **monitor.take(tokens),
    }
    if not is_first_process():
        return
    writer.write(step, metrics)
    terms = {name: metrics[f"reward/{name}/mean"] for name in outcome.rewards.terms}
    progress.update(step, {"reward": metrics["reward/total/mean"]}, terms, tokens)
    if config.completions_every and (step == 1 or step % config.completions_every == 0):
        samples.write(step, _samples(run, outcome))


def _completion_metrics(completions: Completions, heard: Heard) -> dict[str, float]:
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
        figures["listener/cut_traces"] = heard.cut_traces
    return {name: float(value) for name, value in figures.items()}


def _samples(run: Run, outcome: Outcome) -> list[Completion]:
    rows = []
    for b, (row, swapped) in enumerate(
        zip(outcome.batch.target.pair, outcome.batch.target.swapped, strict=True)
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
    completions, target = outcome.completions, outcome.batch.target
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
