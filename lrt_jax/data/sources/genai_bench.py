"""GenAI-Bench, image generation (Jiang et al., arXiv 2406.04485), as published: parquet.

`image_generation/{split}-*.parquet`, one vote a row: prompt, left_model, left_image, right_model,
right_image (structs of bytes and path), vote_type: `leftvote`, `rightvote`, `tievote` or
`bothbad_vote`. Splits on the Hub are `test` and `test_v1`, the state of the paper; where both are
there, `test` is read. That votes of one prompt belong together, and that all of it is for testing,
is our choice; other tasks of the benchmark (image_edition, video_generation) are passed over.
"""

from pathlib import PurePosixPath

from lrt_jax.data.schema import FileRef
from lrt_jax.data.sources.files import InputFolder, SourceError
from lrt_jax.data.sources.pairwise import Judgement, Rows, cells, groups_of, numbered
from lrt_jax.data.sources.reading import Record, unread_note
from lrt_jax.data.sources.source import BadRecords, Source, SourceData

COLUMNS = ("prompt", "left_image!", "right_image!", "left_model", "right_model", "vote_type")
VOTES = {
    "leftvote": (1.0, 0.0),
    "rightvote": (0.0, 1.0),
    "tievote": (0.5, 0.5),
    "bothbad_vote": (0.5, 0.5),
}


def read(folder: InputFolder, bad: BadRecords) -> SourceData:
    """Reads the votes on image generation.

    Raises:
      SourceError: there are none, or a file is not in the published layout.
    """
    names = folder.names(r"(.*/)?[^/]*\.parquet")
    files = [f for f in names if not {"image_edition", "video_generation"} & _folders(f)]
    if not files:
        raise SourceError(
            f"{folder.root}: no image_generation/*.parquet; give the folder of GenAI-Bench"
        )
    early = [f for f in files if "_v1" in PurePosixPath(f.file).name]
    notes = ()
    if 0 < len(early) < len(files):
        files = [f for f in files if f not in early]
        notes = ("the votes of test_v1 are not read beside those of test",)
    rows, both_bad = Rows(folder, COLUMNS, ()), []
    judged = rows.collect(files, lambda *row: _judgement(*row, both_bad), bad)
    if both_bad:
        notes += (f"{len(both_bad)} votes that both images are bad count as ties",)
    groups = groups_of(numbered(judged, "test"), split="test")
    return SourceData(groups, "image_generation", (*notes, *unread_note(rows.unread)))


def _folders(file: FileRef) -> set[str]:
    return set(PurePosixPath(file.file).parts[:-1])


def _judgement(record: Record, file: FileRef, both_bad: list[str]) -> tuple[str, Judgement]:
    prompt, vote = record.caption(), record.get("vote_type", kind=str)
    if vote not in VOTES:
        record.fail("vote_type", f"is {vote!r}", f"expected one of {', '.join(VOTES)}")
    if vote == "bothbad_vote":
        both_bad.append(record.origin)
    generators = tuple(record.get(f"{side}_model", kind=str) for side in ("left", "right"))
    images = cells(file, record, "left_image", "right_image")
    return prompt, Judgement(prompt, images, VOTES[vote], generators)


SOURCE = Source(
    name="genai_bench",
    read=read,
    hub_id="TIGER-Lab/GenAI-Bench",
    licence="CC-BY-4.0",
    gigabytes=0.6,
    patterns=("image_generation/*.parquet",),
    test_splits=("test",),
)
