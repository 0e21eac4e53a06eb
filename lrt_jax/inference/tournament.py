"""Who meets whom, and what follows of it for a ranking."""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence

import numpy as np

from lrt_jax.inference.pictures import Picture
from lrt_jax.inference.results import Comparison, Ranking, mean

Pair = tuple[int, int]
ANCHORS = 2  # of a ranking by some, where nobody says how many


@dataclasses.dataclass(frozen=True)
class Tournament:
    """Who is compared with whom.

    Attributes:
      caption: what all pictures are to show.
      pictures: that take part.
      pairs: indices of those that meet.
      anchors: indices of those that all others meet; None where that is not so.
    """

    caption: str
    pictures: Sequence[Picture]
    pairs: Sequence[Pair]
    anchors: Sequence[int] | None = None


def all_pairs(count: int) -> list[Pair]:
    """Each of some images against each other once."""
    return list(itertools.combinations(range(count), 2))


def anchor_pairs(count: int, anchors: Sequence[int]) -> list[Pair]:
    """Each of some images against each anchor; the anchors are some of the images."""
    return [pair for pair in all_pairs(count) if not set(anchors).isdisjoint(pair)]


def choose_anchors(digests: Sequence[bytes], count: int) -> list[int]:
    """Indices of `count` images, as good as drawn, but the same in whatever order they are."""
    return sorted(sorted(range(len(digests)), key=digests.__getitem__)[:count])


def anchors_met(method: str, anchors: int | None) -> int | None:
    """How many images all others meet; None where each meets each.

    Raises:
      TypeError, ValueError: they are no number from 1, or are not asked for.
    """
    if method not in ("all", "anchors"):
        raise ValueError(f"method={method!r} is neither 'all' nor 'anchors'")
    if method == "all":
        if anchors is not None:
            raise ValueError(f"anchors={anchors!r}: say method='anchors' too")
        return None
    return at_least_one("anchors", ANCHORS if anchors is None else anchors)


def at_least_one(name: str, number: int) -> int:
    """The number that an argument has.

    Raises:
      TypeError, ValueError: it is no whole number from 1; the argument is named.
    """
    if not isinstance(number, int) or isinstance(number, bool):
        raise TypeError(f"{name}={number!r}: expected a whole number")
    if number < 1:
        raise ValueError(f"{name}={number}: at least one is needed")
    return number


def ranking(
    count: int, verdicts: Mapping[Pair, Comparison], anchors: Sequence[int] | None = None
) -> Ranking:
    """Ranks images by their mean probability to win.

    Args:
      count: of images.
      verdicts: of the comparisons, by the indices of their images.
      anchors: indices of the images that all were compared with; None if that is each image.
    """
    table: list[list[float | None]] = [[None] * count for _ in range(count)]
    for (i, j), verdict in verdicts.items():
        table[i][j], table[j][i] = verdict.probability, 1.0 - verdict.probability
    scores = [_score(i, row, anchors) for i, row in enumerate(table)]
    return Ranking(
        scores=tuple(scores),
        order=tuple(sorted(range(count), key=lambda i: -scores[i])),
        probabilities=tuple(map(tuple, table)),
        comparisons=len(verdicts),
        cycles=cycles(table),
        verdicts=verdicts,
    )


def cycles(table: Sequence[Sequence[float | None]]) -> tuple[tuple[int, ...], ...]:
    """Groups of images that beat one another in a circle: the strongly connected components of the
    graph in which an image points to those that it beats."""
    from scipy.sparse.csgraph import connected_components

    beats = np.array([[p is not None and p > 0.5 for p in row] for row in table])
    _, component = connected_components(beats, connection="strong")
    groups = [np.flatnonzero(component == number) for number in np.unique(component)]
    return tuple(sorted(tuple(group.tolist()) for group in groups if len(group) > 1))


def _score(image: int, row: Sequence[float | None], anchors: Sequence[int] | None) -> float:
    if anchors is None:
        return mean(p for p in row if p is not None)
    return mean(0.5 if anchor == image else row[anchor] for anchor in anchors)
