"""ImageRewardDB (Xu et al., arXiv 2304.05977) as published, and lists of its pairs.

The first of these layouts that is there is read:

* `pairs.jsonl`: `{group_id, prompt, image_0, image_1, rank_0, rank_1}` a line.
* `metadata-{split}.parquet`: one record per image, `{image_path, prompt_id, prompt, rank, ...}`.
* `{split}_{part}.json`, in any folder or zip: lists of the same records, as published.
* `test.json`: `[{id, prompt, generations[], ranking[]}]`, of the paper's repository.

Ranks start at 1, the best; equal ranks are ties. One annotator ranked each group.
"""

import re
from collections.abc import Iterable
from itertools import chain
from pathlib import PurePosixPath

from lrt_jax.data.schema import FileRef, Group
from lrt_jax.data.sources.files import InputFolder, SourceError
from lrt_jax.data.sources.pairwise import pairs_of_ranking, single_vote
from lrt_jax.data.sources.reading import (
    Record,
    group_by,
    read_json,
    read_json_lines,
    read_parquet,
    unread_note,
)
from lrt_jax.data.sources.source import BadRecords, Source, SourceData

UNIQUE_NAMES = True  # of published images: they are UUIDs, and lie in other folders than it says
PART = re.compile(r"(?P<split>[A-Za-z]\w*)_\d+")
COLUMNS = ("image_path", "prompt_id", "prompt", "rank")
OTHER_COLUMNS = (  # that are known, and no use here
    "classification",
    "image_amount_in_total",
    "overall_rating",
    "image_text_alignment_rating",
    "fidelity_rating",
)


def read(folder: InputFolder, bad: BadRecords) -> SourceData:
    """Reads the first layout that is there.

    Raises:
      SourceError: none is, or a file is not in its layout.
    """
    if file := folder.table(r"(.*/)?pairs\.jsonl"):
        by_id = group_by(read_json_lines(folder, file, bad), "group_id", bad)
        each = ((key, records, folder) for key, records in by_id.items())
        return SourceData(bad.all_of(_group_of_pairs, each), "pairs.jsonl")
    if files := folder.names(r"(.*/)?metadata-.*\.parquet"):
        tables = [read_parquet(folder, f, COLUMNS, bad, OTHER_COLUMNS) for f in files]
        splits = [_stem(f).removeprefix("metadata-").replace("-", "_") for f in files]
        records, unread = zip(*tables, strict=True)
        parts, notes = zip(splits, files, records, strict=True), unread_note(chain(*unread))
        return _image_records(parts, folder, "metadata-*.parquet", bad, notes)
    if files := [f for f in folder.names(r".*\.json") if PART.fullmatch(_stem(f))]:
        parts = ((PART.fullmatch(_stem(f))["split"], f, read_json(folder, f, bad)) for f in files)
        return _image_records(parts, folder, "image records in *.json", bad)
    if file := folder.table(r"(.*/)?test\.json"):
        each = ((record, folder) for record in read_json(folder, file, bad))
        return SourceData(bad.all_of(_group_of_ranking, each), "test.json with generations")
    raise SourceError(
        f"{folder.root}: no pairs.jsonl, metadata-*.parquet, {{split}}_{{part}}.json or "
        "test.json; give the folder that holds them"
    )


def _stem(ref: FileRef) -> str:
    return PurePosixPath(ref.member or ref.file).stem


# ---------------------------------------------------------------------------- pairs.jsonl


def _group_of_pairs(group_id: str, records: list[Record], folder: InputFolder) -> Group:
    ranks: dict[str, float] = {}  # by image, in the order of appearance
    pairs = []
    for record in records:
        names = [record.get(f"image_{side}", kind=str) for side in (0, 1)]
        values = [record.number(f"rank_{side}") for side in (0, 1)]
        for name, value, side in zip(names, values, (0, 1), strict=True):
            if ranks.setdefault(name, value) != value:
                record.fail(
                    f"rank_{side}", f"is {value:g}", f"{name} had rank {ranks[name]:g} above"
                )
        first, second = (list(ranks).index(name) for name in names)
        pairs.append((first, second, *single_vote(*values)))
    return Group(
        group_id=group_id,
        prompt=_one_prompt(records),
        images=tuple(folder.find(name, ("images", "")) for name in ranks),
        pairs=tuple(pairs),
        ranks=tuple(ranks.values()),
    )


# ---------------------------------------------------------------------------- image records


def _image_records(
    parts: Iterable[tuple[str, FileRef, list[Record]]],
    folder: InputFolder,
    layout: str,
    bad: BadRecords,
    notes: tuple[str, ...] = (),
) -> SourceData:
    """Groups of tables of one record per image. The parts of a split may share a group."""
    splits: dict[str, list[tuple[FileRef, Record]]] = {}
    for split, file, records in parts:
        splits.setdefault(split, []).extend((file, record) for record in records)
    groups, alone = [], 0
    for split, rows in splits.items():
        folders = {id(record): _folders(file, split) for file, record in rows}
        by_id = group_by([record for _, record in rows], "prompt_id", bad)
        alone += sum(len(records) < 2 for records in by_id.values())
        several = {k: records for k, records in by_id.items() if len(records) > 1}
        each = ((k, records, folders, split, folder) for k, records in several.items())
        groups += bad.all_of(_group_of_images, each)
    if alone:
        notes += (f"{alone} prompts have a single image and no pair: left out",)
    return SourceData(groups, layout, notes)


def _group_of_images(
    group_id: str,
    records: list[Record],
    folders: dict[int, tuple[str, ...]],
    split: str,
    folder: InputFolder,
) -> Group:
    records[0].check_ranked("image_path", len(records))
    ranks = [record.number("rank") for record in records]
    names = (record.get("image_path", kind=str) for record in records)
    return Group(
        group_id=group_id,
        prompt=_one_prompt(records),
        images=tuple(
            folder.find(name, folders[id(record)], unique_names=UNIQUE_NAMES)
            for name, record in zip(names, records, strict=True)
        ),
        pairs=pairs_of_ranking(ranks),
        ranks=tuple(ranks),
        split=split,
    )


def _folders(file: FileRef, split: str) -> tuple[str, ...]:
    """Folders where the images of a table's records may lie."""
    beside = PurePosixPath(file.file).parent
    return ("", str(beside), str(beside / _stem(file)), "images", f"images/{split}")


def _one_prompt(records: list[Record]) -> str:
    prompt = records[0].caption()
    for record in records:
        if record.get("prompt", kind=str) != prompt:
            record.fail(
                "prompt", "differs", f"the group began with {prompt!r} ({records[0].origin})"
            )
    return prompt


# ---------------------------------------------------------------------------- test.json


def _group_of_ranking(record: Record, folder: InputFolder) -> Group:
    names = record.texts("generations")
    record.check_ranked("generations", len(names))
    ranks = record.numbers("ranking", length=len(names))
    return Group(
        group_id=str(record.get("id", kind=(str, int))),
        prompt=record.caption(),
        images=tuple(
            folder.find(name, ("", "images", "test"), unique_names=UNIQUE_NAMES) for name in names
        ),
        pairs=pairs_of_ranking(ranks),
        ranks=tuple(ranks),
        split="test",
    )


SOURCE = Source(
    name="imagereward",
    read=read,
    hub_id="zai-org/ImageRewardDB",
    licence="Apache-2.0",
    gigabytes=23,
    patterns=("metadata-*.parquet", "images/*.zip"),
    test_splits=("test",),
)
