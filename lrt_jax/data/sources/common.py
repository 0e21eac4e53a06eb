"""What adapters return, and how rankings become votes."""

import dataclasses
import itertools
from collections.abc import Sequence
from pathlib import Path

from lrt_jax.data.schema import Group

Pair = tuple[int, int, float, float]


@dataclasses.dataclass(frozen=True)
class SourceData:
    """What an adapter found.

    Attributes:
      groups: in the source's order.
      layout: which of the source's layouts was read, for the report.
      notes: what was left out or assumed, one sentence each.
      beside: files that go with the data and are kept beside the prepared tables.
      bad_records: what is wrong with the records whose groups were left out.
      near_is_same: whether pictures that look the same are one, and captions that read nearly the
        same belong together. Not so where a program drew them to differ in a detail.
    """

    groups: list[Group]
    layout: str
    notes: tuple[str, ...] = ()
    beside: tuple[Path, ...] = ()
    bad_records: tuple[str, ...] = ()
    near_is_same: bool = True


def single_vote(first_rank: float, second_rank: float) -> tuple[float, float]:
    """The votes of one annotator, given ranks (1 is best): the vote is split for a tie."""
    if first_rank == second_rank:
        return 0.5, 0.5
    return (1.0, 0.0) if first_rank < second_rank else (0.0, 1.0)


def pairs_of_ranking(ranks: Sequence[float]) -> tuple[Pair, ...]:
    """Every pair of a ranking by one annotator, the earlier image first."""
    return tuple(
        (i, j, *single_vote(ranks[i], ranks[j]))
        for i, j in itertools.combinations(range(len(ranks)), 2)
    )
