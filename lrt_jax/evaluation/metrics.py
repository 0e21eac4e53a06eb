"""Every figure of an evaluation that needs only arrays; NumPy in, JSON-ready numbers out.

The input are `Predictions`, one row per pair of images and order in which it was shown. The
protocol: human ties are dropped, a prediction without a readable answer or a predicted tie is
wrong, every pair is shown in both orders, intervals come from a bootstrap over clusters of prompts.

What is undefined, such as a rate over no rows, is None and never NaN.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from lrt_jax.data.schema import NO_CHOICE
from lrt_jax.evaluation.predictions import (
    ROW_METRICS,
    TIE_TOLERANCE,
    BoolRows,
    FloatRows,
    IntRows,
    Predictions,
    contradiction,
    has_verdict,
    is_correct,
    is_human_tie,
    two_orders,
    unread_pairs,
)

MIN_CLUSTERS = 10  # for an interval
MARGIN_EDGES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
LISTENER_EDGES = (0.0, 0.05, 0.15, 0.3, 0.5)

Interval = list[float] | None
Score = float | None


def summarise(predictions: Predictions, *, draws: int = 2000, seed: int = 0) -> dict:
    """All figures below in one JSON-ready dict, named as in `results.json`.

    `draws` and `seed` are those of the bootstrap. `accuracy_two_orders` is
    what `results.json` calls `accuracy_reward_model` when the predictions are the greedy ones.
    """
    bootstrap = functools.partial(cluster_bootstrap, n=draws, seed=seed)
    untied, cluster = ~is_human_tie(predictions), predictions.cluster
    measures = {name: measure(predictions) for name, measure in ROW_METRICS.items()}
    by_prompt = _accuracy_by_prompt(predictions)
    return {
        **{name: _mean(*rows) for name, rows in measures.items()},
        **{f"{name}_ci95": bootstrap(*rows, cluster) for name, rows in measures.items()},
        "accuracy_macro": macro_accuracy(predictions),
        "accuracy_macro_ci95": bootstrap(*by_prompt) if by_prompt else None,
        **accuracy_of_two_orders(predictions),
        "accuracy_by_margin": accuracy_by_margin(predictions),
        "accuracy_by_tie_rule": accuracy_by_tie_rule(predictions),
        **accuracy_by_contradiction(predictions),
        "accuracy_by_listener_certainty": accuracy_by_listener_certainty(predictions),
        **swap_consistency(predictions),
        **accuracy_letterboxed(predictions),
        "unparsed": int((predictions.choice == NO_CHOICE).sum()),
        "calibration": calibration(predictions),
        "pairs": len(np.unique(predictions.pair)),
        "pairs_tied": len(np.unique(predictions.pair[~untied])),
        "judgements": len(predictions.pair),
        "clusters": len(np.unique(cluster)),
    }


# ---------------------------------------------------------------------------- accuracy


def accuracy(predictions: Predictions) -> Score:
    """The headline: share of correct rows, human ties dropped, unparsed rows wrong (micro)."""
    return _mean(is_correct(predictions), ~is_human_tie(predictions))


def macro_accuracy(predictions: Predictions) -> Score:
    """The same as a mean over prompts of the mean within each; None where prompts are unknown."""
    by_prompt = _accuracy_by_prompt(predictions)
    return _mean(by_prompt[0]) if by_prompt else None


def _accuracy_by_prompt(predictions: Predictions) -> tuple[FloatRows, FloatRows, FloatRows] | None:
    """Of each prompt: accuracy, weight 1, and its cluster."""
    if predictions.prompt is None:
        return None
    untied = ~is_human_tie(predictions)
    sums = _GroupSums(predictions.prompt[untied])
    accuracies = sums.mean(is_correct(predictions)[untied].astype(float))
    return accuracies, np.ones(sums.groups), sums.mean(predictions.cluster[untied])


def accuracy_of_two_orders(predictions: Predictions) -> dict[str, Score]:
    """Accuracy per pair of the probability averaged over its orders, see `two_orders`.

    `two_orders_unread` counts pairs with an order in which no answer or probability could be read.
    """
    right, valid = two_orders(predictions)
    _, of_pair = np.unique(predictions.pair, return_inverse=True)
    return {
        "accuracy_two_orders": _mean(right, valid),
        "two_orders_unread": int((valid & unread_pairs(predictions)[of_pair]).sum()),
    }


def accuracy_by_margin(predictions: Predictions) -> list[dict]:
    """Headline accuracy in bins `(low, high]` of the margin between the votes, ties dropped."""
    untied = ~is_human_tie(predictions)
    return _binned(predictions.margin, MARGIN_EDGES, is_correct(predictions), untied)


def _binned(values: FloatRows, edges, correct: BoolRows, valid: BoolRows) -> list[dict]:
    # A margin of one fifth is not exactly 0.2 in float32: the tolerance keeps it in its bin.
    bin_index = np.digitize(values - TIE_TOLERANCE, edges[1:-1], right=True)
    bins = []
    for i, (low, high) in enumerate(zip(edges, edges[1:], strict=False)):
        inside = valid & (bin_index == i)
        count = int(inside.sum())
        bins.append({"low": low, "high": high, "count": count, "accuracy": _mean(correct, inside)})
    return bins


# -------------------------------------------------------------- tie rules of other benchmarks

Outcomes = FloatRows  # 1 first image, 0 second, 0.5 tie; NaN no readable answer, or no ranks


def drop_ties(predicted: Outcomes, human: Outcomes) -> tuple[FloatRows, BoolRows]:
    """ImageReward, and the headline here: human ties dropped, a predicted tie is wrong."""
    return (predicted == human).astype(float), human != 0.5


def hpdv2_ties(predicted: Outcomes, human: Outcomes) -> tuple[FloatRows, BoolRows]:
    """HPDv2's inversion score: only a strict disagreement is wrong, so a human tie is right.

    People's outcomes are those of their mean ranks. There, predicted ties break by sorting order;
    their expectation is one half.
    """
    score = np.where(predicted == 0.5, 0.5, predicted == human)
    return np.where(human == 0.5, ~np.isnan(predicted), score), ~np.isnan(human)


def half_credit_ties(predicted: Outcomes, human: Outcomes) -> tuple[FloatRows, BoolRows]:
    """Pick-a-Pic: three outcomes; a tie on one side only earns one half."""
    return np.nan_to_num(1.0 - np.abs(predicted - human), nan=0.0), np.ones(len(human), bool)


@dataclasses.dataclass(frozen=True)
class TieRule:
    """How a benchmark scores choices.

    Attributes:
      score: scores of predicted and human outcomes, and which rows have one.
      human: outcomes of judgements by people.
      unit: column of the predictions that the macro mean is over.
    """

    score: Callable[[Outcomes, Outcomes], tuple[FloatRows, BoolRows]]
    human: Callable[[Predictions], Outcomes]
    unit: str


def by_votes(predictions: Predictions) -> Outcomes:
    """What the majority of the votes says."""
    return outcomes(predictions.target)


def by_ranks(predictions: Predictions) -> Outcomes:
    """What the mean ranks say, which may be other than the majority of the votes."""
    lead = predictions.rank_lead
    return np.full(len(predictions.pair), np.nan) if lead is None else np.heaviside(lead, 0.5)


TIE_RULES = {
    "drop": TieRule(drop_ties, by_votes, "prompt"),
    "hpdv2": TieRule(hpdv2_ties, by_ranks, "group"),
    "half_credit": TieRule(half_credit_ties, by_votes, "prompt"),
}


def accuracy_by_tie_rule(predictions: Predictions) -> dict[str, dict[str, Score]]:
    """Micro and macro accuracy of the choices under each of `TIE_RULES`; unparsed is wrong.

    None where nothing is known that a rule needs: the ranks of `hpdv2`, prompts or groups.
    """
    predicted = np.choose(predictions.choice + 1, [np.nan, 1.0, 0.0])
    scores = {}
    for name, rule in TIE_RULES.items():
        score, valid = rule.score(predicted, rule.human(predictions))
        unit = getattr(predictions, rule.unit)
        macro = None if unit is None else _mean(_GroupSums(unit[valid]).mean(score[valid]))
        scores[name] = {"micro": _mean(score, valid), "macro": macro}
    return scores


def outcomes(p_first: FloatRows, threshold: float = 0.0) -> Outcomes:
    """[R] outcomes of probabilities: a tie within `threshold` of one half, NaN stays NaN."""
    p_first = np.asarray(p_first, float)
    return np.where(np.abs(p_first - 0.5) <= threshold, 0.5, np.heaviside(p_first - 0.5, 0.5))


def tune_tie_threshold(p_first: FloatRows, target: FloatRows) -> float:
    """Threshold with the best half-credit score on validation rows; the smallest of equals.

    Pick-a-Pic tunes its tie threshold so. [R] probabilities and human shares; NaN never matches.
    """
    distances = np.abs(p_first[np.isfinite(p_first)] - 0.5)
    candidates = np.unique(np.append(np.quantile(distances, np.linspace(0, 1, 101)), 0.0))
    human = outcomes(target)
    scores = [half_credit_ties(outcomes(p_first, c), human)[0].mean() for c in candidates]
    return float(candidates[int(np.argmax(scores))])


# ---------------------------------------------------------------------------- intervals


def cluster_bootstrap(
    values: FloatRows, weights: FloatRows, cluster: IntRows, *, n: int = 2000, seed: int = 0
) -> Interval:
    """95 % percentile interval of `sum(weights * values) / sum(weights)` over resampled clusters.

    Whole clusters are drawn with replacement, since rows of one prompt are not independent.

    Args:
      values: [R] numbers; what stands where the weight is 0, even NaN, is ignored.
      weights: [R] nonnegative numbers; booleans tell which rows are valid.
      cluster: [R] ids.
      n: number of resamples.
      seed: of the resampling.

    Returns:
      [low, high], or None if fewer than `MIN_CLUSTERS` have weight: resamples of so few say little
      of other clusters, and nothing where all of them agree.
    """
    weights = np.asarray(weights, float)
    rows = weights > 0
    sums = _GroupSums(np.asarray(cluster)[rows])
    if sums.groups < MIN_CLUSTERS:
        return None
    total = sums.add(weights[rows] * np.asarray(values, float)[rows])
    weight = sums.add(weights[rows])
    rng = np.random.default_rng(seed)
    block = max(1, 2**20 // sums.groups)  # some tens of MiB for any number of clusters
    means = []
    for start in range(0, n, block):
        drawn = rng.integers(sums.groups, size=(min(block, n - start), sums.groups))
        means.append(total[drawn].sum(axis=1) / weight[drawn].sum(axis=1))
    return np.percentile(np.concatenate(means), [2.5, 97.5]).tolist()


class Gain(NamedTuple):
    """What changed on the same rows.

    Attributes:
      gain: mean change.
      ci95: interval of 95 %.
      paired: rows that have a value both times, which it is the mean over.
      unpaired: rows that have one only before or only after, which are left out.
    """

    gain: Score
    ci95: Interval
    paired: int
    unpaired: int


def paired_gain(
    before: Predictions,
    after: Predictions,
    measure: str = "accuracy",
    *,
    n: int = 2000,
    seed: int = 0,
) -> Gain:
    """Mean change from `before` to `after` in one of `ROW_METRICS`, and its 95 % interval.

    Only rows where both have a value count, and both are resampled with the same clusters. Where
    some have a value once only, the change is not the difference of the two means.

    Raises:
      ValueError: the two are not of the same pairs, in the same orders, with the same targets.
    """
    old_order, new_order = _same_rows(before, after)
    old, old_valid = (x[old_order] for x in ROW_METRICS[measure](before))
    new, new_valid = (x[new_order] for x in ROW_METRICS[measure](after))
    change, valid = new.astype(float) - old, old_valid & new_valid
    interval = cluster_bootstrap(change, valid, before.cluster[old_order], n=n, seed=seed)
    unpaired = int((old_valid ^ new_valid).sum())
    return Gain(_mean(change, valid), interval, int(valid.sum()), unpaired)


def _same_rows(before: Predictions, after: Predictions) -> list[IntRows]:
    """Orders that put the rows of both side by side."""
    orders = [np.lexsort(j.keys.T) for j in (before, after)]
    for name in ("pair", "swapped", "target", "cluster"):
        ours, theirs = (getattr(j, name)[o] for j, o in zip((before, after), orders, strict=True))
        if not np.array_equal(ours, theirs):
            raise ValueError(f"before and after differ in {name}: they are not the same rows")
    return orders


# ---------------------------------------------------------------------------- the listener


def accuracy_by_contradiction(predictions: Predictions) -> dict[str, Score]:
    """Accuracy with and without contradiction, and the number of rows where it is defined."""
    contradicts, defined = contradiction(predictions)
    correct, untied = is_correct(predictions), ~is_human_tie(predictions)
    return {
        "contradiction_judgements": int(defined.sum()),
        "accuracy_with_contradiction": _mean(correct, defined & untied & contradicts),
        "accuracy_without_contradiction": _mean(correct, defined & untied & ~contradicts),
    }


def accuracy_by_listener_certainty(predictions: Predictions) -> list[dict]:
    """Headline accuracy in bins of the listener's distance from one half."""
    distance = np.abs(predictions.listener_p_first - 0.5)
    valid = has_verdict(predictions) & ~is_human_tie(predictions)
    return _binned(distance, LISTENER_EDGES, is_correct(predictions), valid)


# ---------------------------------------------------------------------------- order


def swap_consistency(predictions: Predictions) -> dict[str, Score]:
    """Share of pairs judged in both orders, both readable, that got the same image twice."""
    stored, pair = _stored_choice(predictions), predictions.pair
    parsed = stored != NO_CHOICE
    sums = _GroupSums(pair[parsed])
    seconds, count = sums.add(stored[parsed]), sums.add(np.ones(parsed.sum()))
    return {
        "swap_consistency": _mean(seconds != 1, count == 2),
        "swap_pairs": int((count == 2).sum()),
    }


def accuracy_letterboxed(predictions: Predictions) -> dict[str, Score]:
    """Headline accuracy over pairs of which an image is shown between bars, and how many rows."""
    known = predictions.letterboxed is not None
    shown = np.asarray(predictions.letterboxed if known else np.zeros(len(predictions.pair)), bool)
    shown &= ~is_human_tie(predictions)
    return {
        "accuracy_letterboxed": _mean(is_correct(predictions), shown),
        "letterboxed_judgements": int(shown.sum()),
    }


def _stored_choice(predictions: Predictions) -> np.ndarray:
    """[R] choices, as they would read for the stored order."""
    choice = predictions.choice
    turned = predictions.swapped.astype(bool) & (choice != NO_CHOICE)
    return np.where(turned, 1 - choice, choice)


# ---------------------------------------------------------------------------- calibration


def calibration(predictions: Predictions, *, bins: int = 10) -> dict:
    """How far the policy's probabilities can be believed.

    `ece` (expected calibration error, equal bins of `p_first`), `brier` (mean squared error) and
    the `reliability` curve are against the majority's choice, human ties dropped; `brier_votes` is
    against the share of votes, ties included. All over the `count` rows with a probability.
    """
    probability, target = predictions.p_first.astype(float), predictions.target.astype(float)
    known = np.isfinite(probability)
    used = known & ~is_human_tie(predictions)
    label = target > 0.5
    curve = _reliability(probability[used], label[used], bins)
    gaps = [b["count"] * abs(b["predicted"] - b["observed"]) for b in curve if b["count"]]
    return {
        "ece": sum(gaps) / int(used.sum()) if gaps else None,
        "brier": _mean((probability - label) ** 2, used),
        "brier_votes": _mean((probability - target) ** 2, known),
        "count": int(used.sum()),
        "reliability": curve,
    }


def _reliability(probability: FloatRows, label: BoolRows, bins: int) -> list[dict]:
    # 1.0 belongs to the last bin.
    bin_index = np.minimum((probability * bins).astype(int), bins - 1)
    return [
        {
            "low": i / bins,
            "high": (i + 1) / bins,
            "count": int((bin_index == i).sum()),
            "predicted": _mean(probability, bin_index == i),
            "observed": _mean(label, bin_index == i),
        }
        for i in range(bins)
    ]


# ---------------------------------------------------------------------------- sums


class _GroupSums:
    """Sums and means of rows that share an id, groups in increasing order of the id."""

    def __init__(self, ids: IntRows):
        unique, self._group = np.unique(ids, return_inverse=True)
        self.groups = len(unique)

    def add(self, values: np.ndarray) -> np.ndarray:
        return np.bincount(self._group, weights=values, minlength=self.groups)

    def mean(self, values: np.ndarray) -> np.ndarray:
        return self.add(values) / self.add(np.ones(len(self._group)))


def _mean(values: np.ndarray, where: BoolRows | None = None) -> Score:
    values = np.asarray(values, float) if where is None else np.asarray(values, float)[where]
    return float(values.mean()) if values.size else None
