"""What a comparison says, and how it is made of single readings.

Probabilities are multiples of 2**-32, and means of them are taken of whole numbers, so that an
exchange of the two images turns `p` into `1 - p` exactly.
"""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction

ONE = 1 << 32  # a probability of 1, in units of which all probabilities are whole numbers


@dataclasses.dataclass(frozen=True)
class Reading:
    """One completion: a reasoning, and the answer after it.

    Attributes:
      swapped: whether the image that was given second was shown first.
      trace: the reasoning, without its answer; its "first" is the image that was *shown* first.
      probability: 0..1, that the image that was *given* first is preferred, after this reasoning.
      prefers_first: whether the answer is the image that was given first.
      forced: the reasoning ended without a readable answer, and `</think><answer>` was appended.
      listener_probability: 0..1, the listener's after it read the reasoning alone; None without a
        listener, or where it could not be told what is reasoning.
      contradiction: whether the listener prefers the other image than the answer; None where that
        is undefined, or the listener is at exactly one half.
    """

    swapped: bool
    trace: str
    probability: float
    prefers_first: bool
    forced: bool = False
    listener_probability: float | None = None
    contradiction: bool | None = None


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Which of two images people would prefer.

    Attributes:
      probability: 0..1, that the first image is preferred: the mean of all readings. With the
        images exchanged it is exactly 1 minus that, and of an image and itself 0.5.
      standard_error: of the probability over the votes, each the mean of its two orders; None for
        one vote.
      agreement: 0..1, share of the votes that prefer the same image in both orders.
      listener_probability: 0..1, the mean of the readings' that have one; None if none has.
      contradiction: whether the listener prefers the other image than `probability`; None without a
        listener, or where either is at exactly one half.
      readings: of the order as given, and of the swapped one; a vote has one of each.
    """

    probability: float
    standard_error: float | None
    agreement: float
    listener_probability: float | None
    contradiction: bool | None
    readings: tuple[tuple[Reading, ...], tuple[Reading, ...]]

    @property
    def traces(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The reasonings in the order as given, and in the swapped one."""
        given, swapped = (tuple(x.trace for x in order) for order in self.readings)
        return given, swapped

    @property
    def forced(self) -> int:
        """How many readings ended without an answer of their own."""
        return sum(reading.forced for order in self.readings for reading in order)


@dataclasses.dataclass(frozen=True)
class Ranking:
    """How people would rank some images.

    Attributes:
      scores: of each image, as given: its mean probability, 0..1, to be preferred to an image that
        it was compared with. Against anchors, an anchor meets itself at 0.5.
      order: indices of the images, best first; of equal scores the one given first.
      probabilities: `[i][j]` that image `i` is preferred to `j`; None where they were not compared.
      comparisons: how many were made.
      cycles: groups of images that beat one another in a circle, so that no order agrees with all
        comparisons; indices, ascending.
      verdicts: each comparison that was made, by the indices of its two images.
    """

    scores: tuple[float, ...]
    order: tuple[int, ...]
    probabilities: tuple[tuple[float | None, ...], ...]
    comparisons: int
    cycles: tuple[tuple[int, ...], ...]
    verdicts: Mapping[tuple[int, int], Comparison]


@dataclasses.dataclass(frozen=True)
class Score:
    """How an image does against anchors.

    Attributes:
      score: 0..1, its mean probability to be preferred to an anchor.
      verdicts: of the comparison with each anchor, the image first.
    """

    score: float
    verdicts: tuple[Comparison, ...]


def quantised(probability: float) -> float:
    """The nearest multiple of 2**-32."""
    return round(probability * ONE) / ONE


def compared(given: Sequence[Reading], swapped: Sequence[Reading]) -> Comparison:
    """A comparison of its readings, the same number in each order."""
    orders = tuple(given), tuple(swapped)
    votes = [_units(a.probability) + _units(b.probability) for a, b in zip(*orders, strict=True)]
    probability = mean(reading.probability for order in orders for reading in order)
    heard = [
        reading.listener_probability
        for order in orders
        for reading in order
        if reading.listener_probability is not None
    ]
    listener = mean(heard) if heard else None
    return Comparison(
        probability=probability,
        standard_error=_standard_error(votes),
        agreement=_agreement(*orders),
        listener_probability=listener,
        contradiction=contradicts(listener, probability),
        readings=orders,
    )


def contradicts(listener: float | None, probability: float) -> bool | None:
    """Whether two probabilities prefer different images; None where one is missing or one half."""
    if listener is None or 0.5 in (listener, probability):
        return None
    return (listener > 0.5) != (probability > 0.5)


def mean(probabilities: Iterable[float]) -> float:
    """Of multiples of 2**-32, one again; that of what each lacks to 1 is what it lacks to 1."""
    units = [_units(x) for x in probabilities]
    return round(Fraction(sum(units), len(units))) / ONE  # halves to even, and `ONE` is even


def _units(probability: float) -> int:
    return int(probability * ONE)


def _agreement(given: Sequence[Reading], swapped: Sequence[Reading]) -> float:
    same = [a.prefers_first == b.prefers_first for a, b in zip(given, swapped, strict=True)]
    return sum(same) / len(same)


def _standard_error(votes: Sequence[int]) -> float | None:
    """Of the mean of votes, each of two orders together; in whole numbers until the last step."""
    count = len(votes)
    if count < 2:
        return None
    spread = count * sum(vote * vote for vote in votes) - sum(votes) ** 2
    return math.sqrt(Fraction(spread, count * count * (count - 1))) / (2 * ONE)
