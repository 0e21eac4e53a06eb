"""ImageRewardDB (Xu et al., arXiv 2304.05977) as published, and lists of its pairs.

The first of these layouts that is there is read:

* `pairs.jsonl`: `{group_id, prompt, image_0, image_1, rank_0, rank_1}` a line.
* `metadata-{split}.parquet`: one record per image, `{image_path, prompt_id, prompt, rank, ...}`.
* `{split}_{part}.json`, in any folder: lists of the same records, as the data set's zips hold them.
* `test.json`: `[{id, prompt, generations[], ranking[]}]`, of the paper's repository.

Ranks start at 1, the best; equal ranks are ties. One annotator ranked each group.
"""

import re
from pathlib import Path

from lrt_jax.data.schema import Group
from lrt_jax.data.sources.common import (
    BadRecords,
    Record,
    SourceData,
    SourceError,
    find_image,
    pairs_of_ranking,
    read_json,
    read_json_lines,
    read_parquet,
    single_vote,
)

PART = re.compile(r"(?P<split>[A-Za-z]\w*)_\d+")


def read(path: str | Path, bad: BadRecords) -> SourceData:
    """Reads the first layout that is there.

    Raises:
      SourceError: none is, or a file is not in its layout.
    """
    root = Path(path)
    if (file := root / "pairs.jsonl").is_file():
        by_id = bad.group_by(read_json_lines(file), "group_id")
        each = ((str(key), records, root) for key, records in by_id.items())
        return SourceData(bad.groups(_group_of_pairs, each), "pairs.jsonl")
    if files := sorted(root.glob("metadata-*.parquet")):
        splits = [f.stem.removeprefix("metadata-").replace("-", "_") for f in files]
        tables = [(s, f, read_parquet(f)) for s, f in zip(splits, files, strict=True)]
        return _image_records(tables, root, "metadata-*.parquet", bad)
    if files := [f for f in sorted(root.rglob("*.json")) if PART.fullmatch(f.stem)]:
        tables = [(PART.fullmatch(f.stem)["split"], f, read_json(f)) for f in files]
        return _image_records(tables, root, "image records in *.json", bad)
    if (file := root / "test.json").is_file():
        each = ((record, root) for record in read_json(file))
        return SourceData(bad.groups(_group_of_ranking, each), "test.json with generations")
    raise SourceError(
        f"{root}: no pairs.jsonl, metadata-*.parquet, {{split}}_{{part}}.json or test.json; give "
        "the folder that holds them, with its zips unpacked"
    )


# ---------------------------------------------------------------------------- pairs.jsonl


def _group_of_pairs(group_id: str, records: list[Record], root: Path) -> Group:
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
        images=tuple(find_image(name, [root / "images", root]) for name in ranks),
        pairs=tuple(pairs),
        ranks=tuple(ranks.values()),
    )


# ---------------------------------------------------------------------------- image records


def _image_records(
    tables: list[tuple[str, Path, list[Record]]], root: Path, layout: str, bad: BadRecords
) -> SourceData:
    """Groups of tables of one record per image. The parts of a split may share a group."""
    splits: dict[str, list[tuple[Path, Record]]] = {}
    for split, file, records in tables:
        splits.setdefault(split, []).extend((file, record) for record in records)
    groups, alone = [], 0
    for split, rows in splits.items():
        folders = {id(record): _folders(file, split, root) for file, record in rows}
        by_id = bad.group_by([record for _, record in rows], "prompt_id")
        alone += sum(len(records) < 2 for records in by_id.values())
        groups += bad.groups(
            _group_of_images,
            ((str(k), records, folders, split) for k, records in by_id.items() if len(records) > 1),
        )
    notes = [f"{alone} prompts have a single image and no pair: left out"] if alone else []
    return SourceData(groups, layout, tuple(notes))


def _group_of_images(
    group_id: str, records: list[Record], folders: dict[int, list[Path]], split: str
) -> Group:
    ranks = [record.number("rank") for record in records]
    return Group(
        group_id=group_id,
        prompt=_one_prompt(records),
        images=tuple(
            find_image(record.get("image_path", kind=str), folders[id(record)])
            for record in records
        ),
        pairs=pairs_of_ranking(ranks),
        ranks=tuple(ranks),
        split=split,
    )


def _folders(file: Path, split: str, root: Path) -> list[Path]:
    return list(
        dict.fromkeys(
            [root, file.parent, file.parent / file.stem, root / "images", root / "images" / split]
        )
    )


def _one_prompt(records: list[Record]) -> str:
    prompt = records[0].caption()
    for record in records:
        if record.get("prompt", kind=str) != prompt:
            record.fail(
                "prompt", "differs", f"the group began with {prompt!r} ({records[0].place})"
            )
    return prompt


# ---------------------------------------------------------------------------- test.json


def _group_of_ranking(record: Record, root: Path) -> Group:
    names = record.texts("generations")
    ranks = record.numbers("ranking", length=len(names))
    if len(names) < 2:
        record.fail("generations", f"names {len(names)} images", "a group has at least two")
    return Group(
        group_id=str(record.get("id", kind=(str, int))),
        prompt=record.caption(),
        images=tuple(find_image(name, [root, root / "images", root / "test"]) for name in names),
        pairs=pairs_of_ranking(ranks),
        ranks=tuple(ranks),
        split="test",
    )
