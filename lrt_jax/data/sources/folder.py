"""Preference data of your own: `*.jsonl`, `*.csv` or `*.parquet` in a folder, images beside them.

Each row is a caption, two or more images, and what people said of them:

* caption: a text.
* images: their paths inside the folder (also inside a zip or tar there), each once, as a list
  `images`, or in columns image_0, image_1, ...; in parquet these columns may also hold the images'
  bytes, and then each row fills them all.
* one of:
  winner: the number of the best image, counted from 0, or its path, or `tie`;
  votes: for each image how many people chose it, as a list `votes` or in columns votes_0, ...;
  ranks: for each image its rank, 1 is best, ties allowed: a list `ranks`, or columns rank_0, ...
* group_id (optional): rows with the same one are one group; they share caption, split, criterion.
* split, criterion (optional): train, validation, test or any other; overall (which is meant where
  there is none), alignment, coherence or style.
* generators (optional): the model that made each image, as a list or in columns generator_0, ...

Other usual names are understood: prompt; image_1 and image_2, with votes_1, rank_1 and so on;
chosen and rejected; preferred; see `field_names`. A name that may say several things, such as
label, is refused. Images are counted from 0; where their columns count from 1, a winner is no
number.

Of a group of more than two, the winner is better than each other image, the votes of two images are
those of the pair, and ranks compare every pair. In CSV an empty value is none.
"""

import dataclasses
import itertools
import re
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, NamedTuple

from lrt_jax.data.schema import FileRef, Group
from lrt_jax.data.sources.field_names import (
    LISTS,
    is_usual,
    names_an_image,
    numbered,
    renamed,
    suggestion,
)
from lrt_jax.data.sources.files import InputFolder, SourceError
from lrt_jax.data.sources.pairwise import Judgement, Pair, group_of, pairs_of_ranking, single_vote
from lrt_jax.data.sources.reading import (
    Record,
    parquet_schema,
    quoted,
    read_csv,
    read_json_lines,
    read_parquet,
    unread_note,
)
from lrt_jax.data.sources.source import BadRecords, Source, SourceData

if TYPE_CHECKING:
    import pyarrow

ACCEPTED = (
    "a row has caption, images (or image_0, image_1, ...) and one of winner, votes (or votes_0, "
    "...) and ranks (or rank_0, ...)"
)
SINGLE = ("caption", "winner", "group_id", "split", "criterion")
CRITERIA = ("overall", "alignment", "coherence", "style")


class Row(NamedTuple):
    """One row, read."""

    record: Record
    judgements: list[Judgement]
    ranks: tuple[float, ...] | None
    fields: dict[str, str]  # split and criterion, where it has them


def read(folder: InputFolder, bad: BadRecords) -> SourceData:
    """Reads all files of the one kind that is there.

    Raises:
      SourceError: none is, there are several kinds, or a file cannot be read.
    """
    files = folder.names(r"[^/]*\.(jsonl|csv|parquet)")
    kinds = sorted({PurePosixPath(file.file).suffix for file in files})
    if len(kinds) != 1:
        found = f"holds {' and '.join(kinds)}" if kinds else "no *.jsonl, *.csv or *.parquet"
        raise SourceError(f"{folder.root}: {found}; give one kind, where {ACCEPTED}")
    records, unread = [], {}
    for file in files:
        records += _records(folder, file, bad, unread)
    unread |= dict.fromkeys(
        name for record in records for name in record.fields if not _known(name)
    )
    rows = bad.all_of(_row, ((record, folder) for record in records))
    return SourceData(bad.all_of(_group, _grouped(rows)), f"*{kinds[0]}", unread_note(unread))


def _known(name: str) -> bool:
    return name in LISTS or name in SINGLE or bool(numbered(name))


# ---------------------------------------------------------------------------- files


def _records(
    folder: InputFolder, file: FileRef, bad: BadRecords, unread: dict[str, None]
) -> list[Record]:
    """Records by the names that are read here, without what is empty; `unread` learns the rest."""
    kind = PurePosixPath(file.file).suffix
    if kind == ".parquet":
        records = _cells(folder, file, bad, unread)
    else:
        records = (read_json_lines if kind == ".jsonl" else read_csv)(folder, file, bad)
    return bad.all_of(_record, ((record, kind == ".csv") for record in records))


def _record(record: Record, texts_only: bool) -> Record:
    record = renamed(record)
    fields = {name: x for name, x in record.fields.items() if x is not None and x != ""}
    record = dataclasses.replace(record, fields=fields)
    return _with_numbers(record) if texts_only else record


def _with_numbers(record: Record) -> Record:
    """Texts of CSV that say a number become one, where a number is expected."""
    fields = dict(record.fields)
    for name, value in fields.items():
        if isinstance(value, str) and re.fullmatch(r"winner|(votes|rank)_\d+", name):
            fields[name] = _as_number(value)
    images = [x for name, x in fields.items() if names_an_image(name)]
    text = record.fields.get("winner")
    if text in images and fields["winner"] != text:
        record.fail(
            "winner",
            f"is {text}, a number and an image's name",
            "give the images other names, such as a.png and b.png",
        )
    return dataclasses.replace(record, fields=fields)


def _as_number(text: str) -> float | int | str:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text  # which the record refuses, where it is no winner's name


def _cells(
    folder: InputFolder, file: FileRef, bad: BadRecords, unread: dict[str, None]
) -> list[Record]:
    """Records of a parquet file; images of bytes are where they lie."""
    schema = parquet_schema(folder, file)
    read = [field.name for field in schema if _known(field.name) or is_usual(field.name)]
    unread |= dict.fromkeys(name for name in schema.names if name not in read)
    binary = [
        field.name for field in schema if names_an_image(field.name) and not _is_text(field.type)
    ]
    columns = [f"{name}!" if name in binary else name for name in read]
    return [
        dataclasses.replace(
            record,
            fields=record.fields
            | {name: FileRef.cell(file.file, name, record.row) for name in binary},
        )
        for record in read_parquet(folder, file, columns, bad)[0]
    ]


def _is_text(kind: "pyarrow.DataType") -> bool:
    import pyarrow as pa

    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


# ---------------------------------------------------------------------------- rows


def _row(record: Record, folder: InputFolder) -> Row:
    if "caption" not in record:
        record.fail("caption", "is missing", ACCEPTED + suggestion(record, "caption"))
    images = _list(record, "images")
    if images is None or len(images) < 2:
        record.fail(
            "images", f"names {len(images or ())} images", ACCEPTED + suggestion(record, "images")
        )
    record.check_ranked("images", len(images))
    if "group_id" in record:
        record.get("group_id", kind=(str, int))
    if any(not isinstance(image, str | FileRef) for image in images):
        record.fail("images", f"is {quoted(images)}", "expected paths")
    ranks, pairs = _pairs(record, images)
    generators = _generators(record, len(images))
    refs = [folder.find(x, ("", "images")) if isinstance(x, str) else x for x in images]
    if len(set(refs)) < len(refs):  # of whose votes or ranks one would be another's
        again = next(x for i, x in enumerate(images) if refs[i] in refs[:i])
        record.fail("images", f"names {again} twice", "name each image once")
    judgements = [
        Judgement(
            prompt=record.caption("caption"),
            images=(refs[i], refs[j]),
            votes=(first, second),
            generators=generators and (generators[i], generators[j]),
        )
        for i, j, first, second in pairs
    ]
    return Row(record, judgements, ranks, _fields(record))


def _list(record: Record, name: str) -> list[Any] | None:
    """Values of a list, or of its columns; None where there is neither."""
    if name in record:
        return list(record.get(name, kind=list))
    columns = (f"{LISTS[name]}_{i}" for i in itertools.count())
    values = [record.fields[c] for c in itertools.takewhile(lambda c: c in record, columns)]
    left = [c for c in record.fields if re.fullmatch(rf"{LISTS[name]}_\d+", c)]
    if len(left) != len(values):
        has = [record.called.get(column, column) for column in left]
        record.fail(f"{LISTS[name]}_{len(values)}", "is missing", f"the record has {has}")
    return values or None


def _alone(record: Record, name: str, values: list[Any]) -> Record:
    """A record of a list alone, which may have stood in columns."""
    return dataclasses.replace(record, fields={name: values})


def _pairs(
    record: Record, images: Sequence[Any]
) -> tuple[tuple[float, ...] | None, tuple[Pair, ...]]:
    votes, ranks = _list(record, "votes"), _list(record, "ranks")
    if ("winner" in record) + (votes is not None) + (ranks is not None) != 1:
        others = " or ".join(record.called.get(name, name) for name in ("votes", "ranks"))
        record.fail(
            "winner",
            f"or {others}: there is not just one of them",
            ACCEPTED + suggestion(record, "winner"),
        )
    if ranks is not None:
        listed = _alone(record, "ranks", ranks).numbers("ranks", length=len(images))
        return tuple(listed), pairs_of_ranking(listed)
    if votes is not None:
        counts = _alone(record, "votes", votes).counts("votes", length=len(images))
        return None, tuple((i, j, counts[i], counts[j]) for i, j in _all_pairs(images))
    best = _winner(record, images)
    return None, tuple(
        (i, j, *single_vote(float(i != best), float(j != best)))
        for i, j in _all_pairs(images)
        if best is None or best in (i, j)
    )


def _all_pairs(images: Sequence[Any]) -> Iterator[tuple[int, int]]:
    return itertools.combinations(range(len(images)), 2)


def _winner(record: Record, images: Sequence[Any]) -> int | None:
    """Number of the best image; None for a tie."""
    winner = record.get("winner", kind=(int, str))
    if winner == "tie":
        return None
    if winner in images:
        return list(images).index(winner)
    if not isinstance(winner, int) or not 0 <= winner < len(images):
        record.fail(
            "winner",
            f"is {quoted(winner)}",
            f"expected 0 to {len(images) - 1}, an image's path, or tie",
        )
    return winner


def _generators(record: Record, count: int) -> list[str] | None:
    if (names := _list(record, "generators")) is None:
        return None
    return _alone(record, "generators", names).texts("generators", length=count)


def _fields(record: Record) -> dict[str, str]:
    fields = {n: record.get(n, kind=str) for n in ("split", "criterion") if n in record}
    if fields.get("criterion", "overall") not in CRITERIA:
        record.fail(
            "criterion", f"is {fields['criterion']!r}", f"expected one of {', '.join(CRITERIA)}"
        )
    return fields


# ---------------------------------------------------------------------------- groups


def _grouped(rows: Sequence[Row]) -> list[tuple[str, list[Row]]]:
    """Rows of one group_id, and each row without one, with a name for them."""
    groups: dict[str | int, list[Row]] = {}
    for i, row in enumerate(rows):
        own = row.record.fields.get("group_id")
        groups.setdefault(i if own is None else str(own), []).append(row)
    return [(f"row {key}" if isinstance(key, int) else key, rows) for key, rows in groups.items()]


def _group(group_id: str, rows: Sequence[Row]) -> Group:
    first, *others = rows
    for row in others:
        if row.judgements[0].prompt != first.judgements[0].prompt:
            row.record.fail("caption", "differs", f"the group began at {first.record.origin}")
        if row.fields != first.fields:
            row.record.fail("split", "or criterion differs", f"compare {first.record.origin}")
    judgements = [judgement for row in rows for judgement in row.judgements]
    ranks = None if others else first.ranks
    return group_of(group_id, judgements, ranks=ranks, **first.fields)


SOURCE = Source(
    name="folder",
    read=read,
    by_hand="it is data of your own: name its folder",
    about="data of the trainer's own",
)
