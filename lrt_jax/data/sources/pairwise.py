"""Judged pairs, and rankings, to groups."""

import itertools
import math
import sys
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import NamedTuple

from lrt_jax.data.schema import FileRef, Group
from lrt_jax.data.sources.files import InputFolder, SourceError
from lrt_jax.data.sources.reading import Record, read_parquet
from lrt_jax.data.sources.source import BadRecords

UNKNOWN = (math.nan, math.nan)  # weighted votes of a pair, where others of its group have them

Pair = tuple[int, int, float, float]


class Judgement(NamedTuple):
    """Two images of a caption, and what people said of them."""

    prompt: str
    images: tuple[FileRef, FileRef]
    votes: tuple[float, float]
    generators: tuple[str, str] | None = None
    weighted: tuple[float, float] | None = None
    names: tuple[str, str] | None = None  # of the images; None: they are known by where they lie


Judged = dict[Hashable, list[Judgement]]  # by group


class Rows:
    """Parquet files of a set, read one after another; only the judgements are kept.

    Attributes:
      unread: columns of the files that nobody asked for.
    """

    def __init__(self, folder: InputFolder, columns: Sequence[str], optional: Sequence[str]):
        self.folder, self.columns, self.optional = folder, columns, optional
        self.unread: list[str] = []

    def collect(
        self,
        files: Iterable[FileRef],
        read: Callable[[Record, FileRef], tuple[Hashable, Judgement] | None],
        bad: BadRecords,
    ) -> Judged:
        """Judgements by group: `read` says which, or None for a row that is passed over."""
        judged: Judged = {}
        for file in files:
            records, unread = read_parquet(self.folder, file, self.columns, bad, self.optional)
            add_judgements(judged, ((record, file) for record in records), read, bad)
            self.unread += unread
        return judged


def add_judgements(judged: Judged, rows: Iterable[tuple], read: Callable, bad: BadRecords) -> None:
    """Adds to `judged` what `read` makes of each row's arguments, but for bad records."""
    for row in rows:
        if found := bad.try_to(read, *row):
            key, judgement = found
            group = judged.setdefault(key, [])
            if shared := bad.try_to(_with_shared_texts, row[0], judgement, group):
                group.append(shared)


def _with_shared_texts(record: Record, judgement: Judgement, group: list[Judgement]) -> Judgement:
    """The same in less memory; refuses another caption than the group's."""
    if group and group[0].prompt != judgement.prompt:
        raise SourceError(
            f"{record.origin}: the caption is {judgement.prompt!r}, but its group began with "
            f"{group[0].prompt!r}; mend one of them"
        )
    generators = judgement.generators and tuple(map(sys.intern, judgement.generators))
    return judgement._replace(prompt=(group or [judgement])[0].prompt, generators=generators)


def groups_of(judged: Mapping[str, list[Judgement]], **fields) -> list[Group]:
    """A group for each entry, by its id; `fields` are those that all have in common."""
    return [group_of(key, judgements, **fields) for key, judgements in judged.items()]


def numbered(judged: Judged, prefix: str) -> dict[str, list[Judgement]]:
    """Ids for groups that differ by their captions."""
    return {f"{prefix}-{i}": judgements for i, judgements in enumerate(judged.values())}


def group_of(group_id: str, judgements: Sequence[Judgement], **fields) -> Group:
    """The group of some judgements of one caption, each image once."""
    indices: dict[Hashable, int] = {}
    images: dict[int, FileRef] = {}
    generators: dict[int, str] = {}
    pairs = []
    for judgement in judgements:
        names = judgement.names or judgement.images
        pair = tuple(indices.setdefault(name, len(indices)) for name in names)
        for i, image in zip(pair, judgement.images, strict=True):
            images.setdefault(i, image)
        for i, generator in zip(pair, judgement.generators or (), strict=False):
            generators.setdefault(i, generator)
        pairs.append((*pair, *judgement.votes))
    weighted = [judgement.weighted for judgement in judgements]
    return Group(
        group_id=group_id,
        prompt=judgements[0].prompt,
        images=tuple(images[i] for i in range(len(images))),
        pairs=tuple(pairs),
        generators=_all(generators, len(images)),
        weighted=tuple(w or UNKNOWN for w in weighted) if any(weighted) else None,
        **fields,
    )


def _all(names: Mapping[int, str], count: int) -> tuple[str, ...] | None:
    return tuple(names[i] for i in range(count)) if len(names) == count else None


def cells(file: FileRef, record: Record, *columns: str) -> tuple[FileRef, ...]:
    """The images in a record's row of a parquet file."""
    return tuple(FileRef.cell(file.file, column, record.row) for column in columns)


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
