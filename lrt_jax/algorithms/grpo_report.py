"""What is logged of a step of GRPO: figures of its completions, and the completions."""

import numpy as np
from jaxtyping import Int

from lrt_jax.algorithms.api import Run
from lrt_jax.data.schema import FIRST, SECOND, PairRecord, Target
from lrt_jax.reporting.completions import Completion
from lrt_jax.rl.completions import Completions
from lrt_jax.rl.engine import FrozenScores


def completion_metrics(
    completions: Completions, scores: FrozenScores, label: Int[np.ndarray, " B"]
) -> dict[str, float]:
    """What can be said of completions and their listeners, defined as in an evaluation.

    Args:
      completions: of the step.
      scores: what the listeners say of them.
      label: of each pair as it is shown, FIRST, SECOND or TIE.
    """
    said = completions.choice >= 0
    first = completions.choice == FIRST
    figures = {
        "completions/truncated": completions.truncated.mean(),
        "completions/unparsed": 1.0 - said.mean(),
        "completions/first_position_rate": first[said].mean() if said.any() else 0.5,
    }
    if completions.nucleus_mass.min() < 1.0:  # how far sampling is from the trainer's distribution
        figures["completions/nucleus_probability"] = completions.nucleus_mass.mean()
    if scores.p_first is not None:
        other = (scores.p_first > 0.5) != first
        figures["listener/contradiction_rate"] = other[said].mean() if said.any() else 0.0
        figures["listener/cut_traces"] = scores.cut_traces.sum()
        preferred = np.where(label[:, None] == FIRST, scores.p_first, 1.0 - scores.p_first)
        defined = said & np.isin(label, (FIRST, SECOND))[:, None]
        if defined.any():
            figures["listener/confidence"] = preferred[defined].mean()
    return {name: float(value) for name, value in figures.items()}


def truth_metrics(run: Run, target: Target, completions: Completions) -> dict[str, float]:
    """Means over the completions that describe something, where the ground truth is known."""
    if run.truth is None:
        return {}
    columns = run.truth.score(target.pair, target.swapped, completions.traces)
    known = columns["trace_objects"] > 0
    return {
        f"completions/{name}": float(values[known].mean())
        for name, values in columns.items()
        if known.any()
    }


def samples(run: Run, result) -> list[Completion]:
    """The completions of a step, a row each."""
    rows = []
    for b, (row, swapped) in enumerate(zip(result.target.pair, result.target.swapped, strict=True)):
        record = run.prepared.pair(int(row))
        keys = tuple(run.prepared.image(index).key for index in record.image_index)
        shown = keys[::-1] if swapped else keys
        members = range(result.completions.choice.shape[1])
        rows += [_sample(result, record, shown, b, g) for g in members]
    return rows


def _sample(result, record: PairRecord, keys: tuple[str, str], b: int, g: int) -> Completion:
    completions, listener = result.completions, result.scores.p_first
    said = listener is not None and completions.choice[b, g] >= 0
    return Completion(
        pair_uid=record.uid,
        image_keys=keys,
        swapped=bool(result.target.swapped[b]),
        caption=record.prompt,
        member=g,
        text=completions.texts[b][g],
        well_formed=bool(completions.well_formed[b, g]),
        choice=int(completions.choice[b, g]),
        p_first=float(result.inputs.p_first[b]),
        listener_p_first=float(listener[b, g]) if said else None,
        terms={name: float(v[b, g]) for name, v in result.rewards.terms.items()},
        total=float(result.rewards.total[b, g]),
        advantage=float(result.advantages[b, g]),
        tokens=int(completions.length[b, g]),
        truncated=bool(completions.truncated[b, g]),
    )
