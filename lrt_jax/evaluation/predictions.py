"""What a policy has answered, row by row, and the measures that are means over such rows.

Contradiction (arXiv 2506.22832): the listener, given the reasoning without its answer, prefers the
other image. It is given in three forms, since the first alone is unstable where the listener is
undecided: by argmax, by argmax where the listener is more than `CONFIDENT` from one half, and soft.
"""

import dataclasses
from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Float, Int, Int8

from lrt_jax.data.schema import FIRST, NO_CHOICE, SECOND

CONFIDENT = 0.15  # distance of the listener's probability from one half
TIE_TOLERANCE = 1e-6  # probabilities this near to one half are a predicted tie

BoolRows = Bool[np.ndarray, " R"]
IntRows = Int[np.ndarray, " R"]
ChoiceRows = Int8[np.ndarray, " R"]
FloatRows = Float[np.ndarray, " R"]
Measured = tuple[np.ndarray, BoolRows]  # a value per row, and which rows have one


@dataclasses.dataclass(frozen=True)
class Predictions:
    """Answers of a policy, one row per (pair, order); "first" is the first image as *shown*.

    Attributes:
      pair: [R] int, identifies the pair of images.
      cluster: [R] int, identifies the cluster of prompts the pair belongs to.
      swapped: [R] bool, shown in the opposite of the stored order.
      choice: [R] int8, image preferred: 0 first, 1 second, -1 no answer could be read.
      p_first: [R] float32, policy's own probability that the first image is preferred; NaN if
        undefined.
      listener_p_first: [R] float32, the listener's probability of the same; NaN if there is none.
      target: [R] float32, share of human votes for the first image; exactly 0.5 is a human tie.
      margin: [R] float32, `|v0 - v1| / n` of the human votes.
      prompt: [R] int, identifies the caption, which a cluster may have several of; None where it is
        not known.
      group: [R] int, identifies the instance of the source, one caption and the images that were
        ranked together; None likewise.
      rank_lead: [R] float32, people's mean rank of the second image minus that of the first:
        positive where the first is better, NaN where there are no ranks; None likewise.
      trace_truth: [R] float32, share of the objects described that are in the image, NaN where none
        is described; None where nobody knows what is in the images.
      trace_objects: [R] float32, how many objects are described; None likewise.
      letterboxed: [R] whether an image of the pair is shown between bars; None if nobody knows.
      listener_alone: [R] float32, the listener's probability that the first image is preferred
        where it reads no trace; None if it was not asked.
      held_out_p_first: [R] float32, as `listener_p_first` of the held-out listener; None without
        one.
      held_out_alone: [R] float32, as `listener_alone` of the held-out listener; None likewise.

    Raises:
      ValueError: lengths differ, a choice is not one of 0, 1, -1, a target or margin is no number,
        or a (pair, order) occurs twice.
    """

    pair: IntRows
    cluster: IntRows
    swapped: BoolRows
    choice: ChoiceRows
    p_first: FloatRows
    listener_p_first: FloatRows
    target: FloatRows
    margin: FloatRows
    prompt: IntRows | None = None
    group: IntRows | None = None
    rank_lead: FloatRows | None = None
    trace_truth: FloatRows | None = None
    trace_objects: FloatRows | None = None
    letterboxed: BoolRows | None = None
    listener_alone: FloatRows | None = None
    held_out_p_first: FloatRows | None = None
    held_out_alone: FloatRows | None = None

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value is not None and len(value) != len(self.pair):
                raise ValueError(f"{field.name} has {len(value)} rows, pair has {len(self.pair)}")
        if not np.isin(self.choice, (FIRST, SECOND, NO_CHOICE)).all():
            raise ValueError(f"choice must be 0, 1 or -1, found {np.unique(self.choice).tolist()}")
        if not (known := np.isfinite(self.target) & np.isfinite(self.margin)).all():
            pairs = np.unique(self.pair[~known]).tolist()
            raise ValueError(
                f"{len(pairs)} pairs have no target, the first in row {pairs[0]} of the pairs "
                "table; nobody voted on them: leave them out"
            )
        keys, counts = np.unique(self.keys, axis=0, return_counts=True)
        if (counts > 1).any():
            pair, swapped = keys[counts.argmax()]
            raise ValueError(f"pair {pair} with swapped={bool(swapped)} is judged more than once")

    @property
    def keys(self) -> Int[np.ndarray, "R 2"]:
        """(pair, swapped): what identifies a row."""
        return np.stack([self.pair, self.swapped.astype(np.int64)], axis=1)


def is_human_tie(predictions: Predictions) -> BoolRows:
    """[R] the votes for both images are equal."""
    return predictions.target == 0.5


def is_correct(predictions: Predictions) -> BoolRows:
    """The choice is the image with more votes; False without a choice, meaningless at a tie."""
    return predictions.choice == np.where(predictions.target > 0.5, FIRST, SECOND)


def has_verdict(predictions: Predictions, p_first: FloatRows | None = None) -> BoolRows:
    """Rows with both a readable answer and a listener's probability; the rest is undefined.

    Args:
      predictions: of the policy.
      p_first: the listener's probabilities; None for those of the listener of the run.
    """
    p_first = predictions.listener_p_first if p_first is None else p_first
    return (predictions.choice != NO_CHOICE) & np.isfinite(p_first)


def correctness(predictions: Predictions) -> Measured:
    """Headline accuracy: human ties dropped, unparsed rows wrong."""
    return is_correct(predictions), ~is_human_tie(predictions)


def listener_confidence(predictions: Predictions) -> Measured:
    """Probability that the listener gives to the preferred image, human ties dropped."""
    p_first = predictions.listener_p_first
    preferred = np.where(predictions.target > 0.5, p_first, 1.0 - p_first)
    return preferred, has_verdict(predictions) & ~is_human_tie(predictions)


def contradiction(predictions: Predictions) -> Measured:
    """The listener prefers the other image; at exactly one half it contradicts nobody."""
    return _contradiction(predictions, predictions.listener_p_first)


def confident_contradiction(predictions: Predictions) -> Measured:
    """It does so more than `CONFIDENT` from one half."""
    on_choice = _on_choice(predictions, predictions.listener_p_first)
    return on_choice < 0.5 - CONFIDENT, has_verdict(predictions)


def soft_contradiction(predictions: Predictions) -> Measured:
    """One minus the listener's probability of the policy's own answer."""
    return _soft_contradiction(predictions, predictions.listener_p_first)


def held_out_contradiction(predictions: Predictions) -> Measured:
    """As `contradiction`, by the held-out listener."""
    return _contradiction(predictions, _or_nan(predictions, predictions.held_out_p_first))


def held_out_soft_contradiction(predictions: Predictions) -> Measured:
    """As `soft_contradiction`, by the held-out listener."""
    return _soft_contradiction(predictions, _or_nan(predictions, predictions.held_out_p_first))


def listener_correctness(predictions: Predictions) -> Measured:
    """The listener, given the trace, prefers the right image; answers that can be read alone."""
    p_first = predictions.listener_p_first
    return _prefers_right(predictions, p_first, has_verdict(predictions))


def listener_correctness_alone(predictions: Predictions) -> Measured:
    """The listener prefers the right image without any trace; human ties dropped."""
    p_first = _or_nan(predictions, predictions.listener_alone)
    return _prefers_right(predictions, p_first, np.isfinite(p_first))


def held_out_correctness(predictions: Predictions) -> Measured:
    """As `listener_correctness`, of the held-out listener."""
    p_first = _or_nan(predictions, predictions.held_out_p_first)
    return _prefers_right(predictions, p_first, has_verdict(predictions, p_first))


def held_out_correctness_alone(predictions: Predictions) -> Measured:
    """As `listener_correctness_alone`, of the held-out listener."""
    p_first = _or_nan(predictions, predictions.held_out_alone)
    return _prefers_right(predictions, p_first, np.isfinite(p_first))


def first_position(predictions: Predictions) -> Measured:
    """The choice is the image shown first."""
    return predictions.choice == FIRST, predictions.choice != NO_CHOICE


def unparsed(predictions: Predictions) -> Measured:
    """No answer could be read."""
    return predictions.choice == NO_CHOICE, np.ones(len(predictions.choice), bool)


def two_orders(predictions: Predictions) -> Measured:
    """The probability averaged over a pair's orders prefers the right image, human ties dropped.

    A value per pair, which one row of it carries. Each row is turned to the stored order. A pair
    with an order in which no answer or probability could be read is wrong, as the scorer has none
    for it; so is a predicted tie, such as that of a policy whose answer follows the position alone.
    """
    _, of_pair, count = np.unique(predictions.pair, return_inverse=True, return_counts=True)

    def mean(values: np.ndarray) -> FloatRows:
        return np.bincount(of_pair, weights=values, minlength=len(count)) / count

    probability = mean(np.nan_to_num(in_stored_order(predictions, predictions.p_first), nan=0.5))
    target = mean(in_stored_order(predictions, predictions.target))
    decided = np.abs(probability - 0.5) > TIE_TOLERANCE
    right = decided & ((probability > 0.5) == (target > 0.5)) & ~unread_pairs(predictions)
    first = np.zeros(len(predictions.pair), bool)
    by_order = np.lexsort((predictions.swapped, predictions.pair))
    first[by_order[np.unique(predictions.pair[by_order], return_index=True)[1]]] = True
    return right[of_pair], first & (np.abs(target - 0.5) > TIE_TOLERANCE)[of_pair]


def unread_pairs(predictions: Predictions) -> Bool[np.ndarray, " P"]:
    """Pairs with an order in which no answer or probability could be read, by their numbers."""
    unread = (predictions.choice == NO_CHOICE) | ~np.isfinite(predictions.p_first)
    _, of_pair = np.unique(predictions.pair, return_inverse=True)
    return np.bincount(of_pair, weights=unread.astype(float)) > 0


def in_stored_order(predictions: Predictions, p_first: FloatRows) -> FloatRows:
    """Probabilities of the image shown first, as they would read for the stored order."""
    p_first = p_first.astype(float)
    return np.where(predictions.swapped.astype(bool), 1.0 - p_first, p_first)


def trace_truth(predictions: Predictions) -> Measured:
    """Share of the objects described that are in the image, whether or not an answer follows."""
    return _known(predictions, predictions.trace_truth)


def trace_objects(predictions: Predictions) -> Measured:
    """How many objects are described: truth must not be had by saying less."""
    return _known(predictions, predictions.trace_objects)


def _known(predictions: Predictions, values: FloatRows | None) -> Measured:
    values = _or_nan(predictions, values)
    return values, np.isfinite(values)


def _or_nan(predictions: Predictions, values: FloatRows | None) -> FloatRows:
    return np.full(len(predictions.pair), np.nan) if values is None else values


ROW_METRICS: dict[str, Callable[[Predictions], Measured]] = {
    "accuracy": correctness,
    "listener_confidence": listener_confidence,
    "contradiction_rate": contradiction,
    "contradiction_rate_confident": confident_contradiction,
    "contradiction_soft": soft_contradiction,
    "first_position_rate": first_position,
    "trace_truth": trace_truth,
    "trace_objects": trace_objects,
}
# Which evaluations that earlier versions wrote have not.
LATER_METRICS: dict[str, Callable[[Predictions], Measured]] = {
    "accuracy_two_orders": two_orders,
    "unparsed_share": unparsed,
    "listener_accuracy": listener_correctness,
    "listener_accuracy_alone": listener_correctness_alone,
    "held_out_accuracy": held_out_correctness,
    "held_out_accuracy_alone": held_out_correctness_alone,
    "held_out_contradiction_rate": held_out_contradiction,
    "held_out_contradiction_soft": held_out_soft_contradiction,
}
ROW_METRICS |= LATER_METRICS


def _contradiction(predictions: Predictions, p_first: FloatRows) -> Measured:
    return _on_choice(predictions, p_first) < 0.5, has_verdict(predictions, p_first)


def _soft_contradiction(predictions: Predictions, p_first: FloatRows) -> Measured:
    return 1.0 - _on_choice(predictions, p_first), has_verdict(predictions, p_first)


def _prefers_right(predictions: Predictions, p_first: FloatRows, said: BoolRows) -> Measured:
    """A listener at exactly one half prefers neither image, and is wrong."""
    right = np.where(predictions.target > 0.5, p_first > 0.5, p_first < 0.5)
    return right, said & ~is_human_tie(predictions)


def _on_choice(predictions: Predictions, p_first: FloatRows) -> FloatRows:
    """A listener's probability of the policy's own answer."""
    return np.where(predictions.choice == FIRST, p_first, 1.0 - p_first)
