"""Pick-a-Pic v1 and v2 (Kirstain et al., arXiv 2305.01569) as published: parquet, images inside.

`{split}-{part}-of-{parts}-{hash}.parquet` in any folder, one judged pair a row: caption, jpg_0 and
jpg_1 (bytes), label_0 and label_1 (1 and 0, or 0.5 each for a tie), has_label, image_0_uid and
image_1_uid, model_0 and model_1, ranking_id, and columns that are no use here. The splits are
train, validation, test, validation_unique and test_unique; the last two are 500 pairs each of the
two before.

Rows of a ranking show images of one caption to one person: they are one group. A row without a
label is left out.
"""

import re
from collections import defaultdict
from pathlib import PurePosixPath

from lrt_jax.data.schema import FileRef
from lrt_jax.data.sources.files import InputFolder, SourceError
from lrt_jax.data.sources.pairwise import Judgement, Rows, cells, groups_of
from lrt_jax.data.sources.reading import Record, unread_note
from lrt_jax.data.sources.source import BadRecords, Source, SourceData

PART = re.compile(r"(?P<split>[A-Za-z]\w*)-\d+-of-\d+.*")
COLUMNS = ("caption", "jpg_0!", "jpg_1!", "label_0", "label_1", "ranking_id")
OPTIONAL = (
    "has_label",
    "image_0_uid",
    "image_1_uid",
    "model_0",
    "model_1",
    "are_different!",
    "best_image_uid!",
    "created_at!",
    "image_0_url!",
    "image_1_url!",
    "user_id!",
    "num_example_per_prompt!",
    "__index_level_0__!",
)


def read(folder: InputFolder, bad: BadRecords) -> SourceData:
    """Reads all splits that are there.

    Raises:
      SourceError: none is, or a file is not in the published layout.
    """
    splits: dict[str, list[FileRef]] = defaultdict(list)
    for file in folder.names(r"(.*/)?[^/]*\.parquet"):
        if match := PART.fullmatch(PurePosixPath(file.file).stem):
            splits[match["split"]].append(file)
    if not splits:
        raise SourceError(
            f"{folder.root}: no {{split}}-00000-of-00001*.parquet; give the folder of Pick-a-Pic "
            "that holds them"
        )
    rows, groups, unlabelled = Rows(folder, COLUMNS, OPTIONAL), [], []
    for split, files in splits.items():
        judged = rows.collect(files, lambda *row: _judgement(*row, unlabelled), bad)
        by_id = {f"{split}-{ranking}": judgements for ranking, judgements in judged.items()}
        groups += groups_of(by_id, split=split)
    notes = unread_note(rows.unread)
    if unlabelled:
        notes += (f"{len(unlabelled)} rows without a label: left out",)
    return SourceData(groups, "parquet with jpg_0 and jpg_1", notes)


def _judgement(
    record: Record, file: FileRef, unlabelled: list[str]
) -> tuple[int, Judgement] | None:
    if "has_label" in record and not record.get("has_label", kind=bool):
        unlabelled.append(record.origin)
        return None
    votes = tuple(record.number(f"label_{side}") for side in (0, 1))
    if votes not in ((1, 0), (0, 1), (0.5, 0.5)):
        record.fail(
            "label_0",
            f"is {votes[0]:g} and label_1 {votes[1]:g}",
            "expected 1 and 0, 0 and 1, or 0.5 each",
        )
    return record.get("ranking_id", kind=int), Judgement(
        prompt=record.caption("caption"),
        images=cells(file, record, "jpg_0", "jpg_1"),
        votes=votes,
        generators=_texts(record, "model_0", "model_1"),
        names=_texts(record, "image_0_uid", "image_1_uid"),
    )


def _texts(record: Record, *names: str) -> tuple[str, ...] | None:
    """Two fields, or None where the columns are not there or one is empty."""
    values = tuple(record.fields.get(name) for name in names)
    return values if all(isinstance(value, str) and value for value in values) else None


SOURCE = Source(
    name="pickapic",
    read=read,
    patterns=("*.parquet",),
    by_hand="its authors withdrew it from the Hub; name the folder of a copy, or the Hub id of one "
    "(OWNER/NAME)",
    about="withdrawn from the Hub by its authors",
    test_splits=("test", "test_unique"),
)
