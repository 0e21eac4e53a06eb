"""What the fields of preference data are usually called elsewhere, in the words of `folder`.

A name that says just one thing is taken for the field that it stands for; one that may say several
is refused, with what to write in its place.
"""

import dataclasses
import functools
import re
import types
from collections.abc import Iterable, Mapping
from typing import Any

from lrt_jax.data.sources.reading import Record

LISTS = {"images": "image", "votes": "votes", "ranks": "rank", "generators": "generator"}
OTHER_NAMES = {  # of a field; taken where neither it nor, of a judgement, another one is there
    "caption": ("prompt",),
    "images": ("image_paths", "image_path", "file_path"),
    "winner": ("preferred", "preferred_image"),
    "votes": ("human_preference",),
    "ranks": ("ranking", "rank"),
    "generators": ("models",),
}
UNCLEAR = {  # names that may be meant where a field is missing, and what they may say
    "caption": ("text", "instruction", "question", "description"),
    "images": ("image", "image_a", "image_b", "left_image", "right_image", "paths", "img1"),
    "winner": (
        "label",
        "labels",
        "preference",
        "choice",
        "better",
        "best",
        "score",
        "scores",
        "chosen",
    ),
}
REMEDIES = {
    "caption": "call it caption if both images were made for it",
    "images": "call them images (a list of paths), or image_0, image_1, ...",
    "winner": "it may be the number of the better image, or say whether the first is better; write "
    "winner (a number from 0, a path, or tie), votes or ranks",
}
JUDGEMENTS = ("winner", "votes", "ranks")
ORDERED = ("chosen", "rejected")  # the better image and the other
_NUMBERED = re.compile(r"(image|vote|rank|generator|model)s?_?(\d{1,9})")
_FAMILY = {"vote": "votes", "model": "generator"}


@functools.lru_cache(maxsize=1024)
def numbered(name: str) -> tuple[str, int] | None:
    """The family and number of image_0, image1, votes_2, model_1 and the like; None of others."""
    match = _NUMBERED.fullmatch(name)
    return (_FAMILY.get(match[1], match[1]), int(match[2])) if match else None


def is_numbered(name: str, field: str) -> bool:
    """Whether a column of this name holds one entry of a list: image_0 of images."""
    return (numbered(name) or ("",))[0] == LISTS.get(field)


def names_an_image(name: str) -> bool:
    """Whether a column of this name holds one image in each row."""
    return name in ORDERED or is_numbered(name, "images")


def is_usual(name: str) -> bool:
    """Whether a field of this name may be read."""
    others = (*OTHER_NAMES.values(), *UNCLEAR.values())
    return name in ORDERED or bool(numbered(name)) or any(name in names for names in others)


def suggestion(record: Record, field: str) -> str:
    """What to add to an error about a missing field: what of the record may be meant."""
    found = [name for name in UNCLEAR[field] if name in record]
    return f"; the record has {', '.join(found)}: {REMEDIES[field]}" if found else ""


def renamed(record: Record) -> Record:
    """A record whose fields have the names that `folder` reads, and that knows the file's.

    Raises:
      SourceError: two fields say the same, or one may say several things.
    """
    fields, called = _with_other_names(record)
    columns = {name: number for name in fields if (number := numbered(name))}
    from_one = _counts_from_one(columns.values()) and "images" not in fields
    if from_one:
        _check_counts(record, fields, called, columns)
    called |= _columns_called(columns, from_one)
    entries = _entries(record, columns, called, from_one)
    fields = {name: value for name, value in fields.items() if name not in columns} | entries
    _name_winner(record, fields, called, from_one)
    return dataclasses.replace(record, fields=fields, called=_shared(*called.items()))


def _columns_called(columns: Mapping[str, tuple[str, int]], from_one: bool) -> dict[str, str]:
    """What the file would call columns that hold one entry of a list, also those that it lacks."""
    stems = {family: name.rstrip("0123456789") for name, (family, _) in columns.items()}
    return {
        f"{family}_{i}": f"{stem}{i + from_one}"
        for family, stem in stems.items()
        for i in range(len(columns))
    }


def _entries(
    record: Record, columns: Mapping[str, tuple[str, int]], called: dict[str, str], from_one: bool
) -> dict[str, Any]:
    """Columns that hold one entry of a list, counted from 0; `called` learns what they were."""
    fields = {}
    for name, (family, number) in columns.items():
        target = f"{family}_{number - from_one}"
        if target in fields:
            also = called[target]
            record.fail(name, f"is there twice, also as {also!r}", "remove one of the two")
        fields[target], called[target] = record.fields[name], name
    return fields


@functools.lru_cache(maxsize=1024)
def _shared(*called: tuple[str, str]) -> Mapping[str, str]:
    """One mapping for all records of the same columns, of which there may be a million."""
    return types.MappingProxyType(dict(called))


def _with_other_names(record: Record) -> tuple[dict[str, Any], dict[str, str]]:
    """Fields by the names that `folder` reads, and what the file calls those of another name."""
    fields, called = dict(record.fields), {}
    judged = any(_has(fields, name) for name in JUDGEMENTS)
    if all(name in fields for name in ORDERED) and not judged and not _has(fields, "images"):
        fields["images"] = [fields.pop(name) for name in ORDERED]
        called["images"] = " and ".join(ORDERED)
        fields["winner"], judged = 0, True
    for field, names in OTHER_NAMES.items():
        found = [name for name in names if name in fields]
        if not found or _has(fields, field) or (judged and field in JUDGEMENTS):
            continue
        if found[1:]:
            record.fail(
                found[0], f"and {found[1]!r} may both be meant", f"call one of them {field}"
            )
        fields[field] = fields.pop(found[0])
        called[field] = found[0]
    return fields, called


def _has(fields: Iterable[str], field: str) -> bool:
    return any(name == field or is_numbered(name, field) for name in fields)


def _counts_from_one(columns: Iterable[tuple[str, int]]) -> bool:
    numbers = {number for family, number in columns if family == "image"}
    return {1, 2} <= numbers and 0 not in numbers


def _check_counts(
    record: Record, fields: Mapping[str, Any], called: Mapping[str, str], columns: Mapping
) -> None:
    """Refuses what may count from 0 beside images that count from 1."""
    for name, (_, number) in columns.items():
        if number == 0:
            record.fail(name, "counts from 0, but the images from 1", "number all of them alike")
    winner = fields.get("winner")
    if isinstance(winner, int | float) or (isinstance(winner, str) and winner.strip().isdigit()):
        record.fail(
            called.get("winner", "winner"),
            f"is {winner}, where the images are numbered from 1",
            "write the image's column, such as image_1, or its path; or number them from 0",
        )


def _name_winner(
    record: Record, fields: dict[str, Any], called: Mapping[str, str], from_one: bool
) -> None:
    """The number of a winner that is named by its column, such as image_1.

    Where there are no such columns nobody can say what the name counts from.
    """
    winner, listed = fields.get("winner"), fields.get("images")
    images = [value for name, value in fields.items() if is_numbered(name, "images")]
    images += listed if isinstance(listed, list) else []
    if not isinstance(winner, str) or not is_numbered(winner, "images") or winner in images:
        return
    if listed is not None:
        record.fail(
            called.get("winner", "winner"),
            f"is {winner}, but {called.get('images', 'images')} is a list, whose images have no "
            "such names",
            "write the number of the better image, counted from 0, or its path",
        )
    fields["winner"] = numbered(winner)[1] - from_one
