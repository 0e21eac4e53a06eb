"""Multimodal RewardBench 2, text to image (facebookresearch/MMRB2), as published.

Either of:

* `t2i.json`, as its build scripts write it: `{"pairs": [{id, prompt_content[["text", caption]],
  response_a and response_b {model_name, response_content[["image", path]]}, chosen,
  human_annotations[]}]}`, with the folder `images`. The repository's own t2i_response_only.json
  lacks the captions.
* parquet of the configuration `t2i` on the Hub (rl-research/multimodal-rewardbench-2): pair_id,
  prompt_text, response_a_images (a list of one), response_a_model, the same of b, chosen,
  human_annotations (JSON). Its columns are those that the repository's script reads; that its files
  are `t2i/*.parquet` is our assumption.

Three people each gave 1 to 6: 1-3 prefer B, 4-6 prefer A; `chosen` is their majority. Of our own
accord all of it is one split, test.
"""

from lrt_jax.data.schema import FileRef
from lrt_jax.data.sources.files import InputFolder, SourceError
from lrt_jax.data.sources.pairwise import Judged, Judgement, Rows, add_judgements, cells, groups_of
from lrt_jax.data.sources.reading import Record, quoted, read_json, unread_note
from lrt_jax.data.sources.source import BadRecords, Source, SourceData

COLUMNS = (
    "pair_id",
    "prompt_text",
    "response_a_images!",
    "response_b_images!",
    "response_a_model",
    "response_b_model",
    "chosen",
    "human_annotations",
)
OPTIONAL = (
    "prompt_images!",
    "prompt_source!",
    "prompt_metadata!",
    "response_a_text!",
    "response_b_text!",
)
LICENCE = "MMRB2 is licensed CC-BY-NC-4.0: not for commercial use"


def read(folder: InputFolder, bad: BadRecords) -> SourceData:
    """Reads t2i.json, or the parquet files.

    Raises:
      SourceError: neither is there, or a file is not in its layout.
    """
    if file := folder.table(r"(.*/)?t2i\.json"):
        judged: Judged = {}
        rows = ((record, folder) for record in read_json(folder, file, bad, key="pairs"))
        add_judgements(judged, rows, _pair, bad)
        return SourceData(groups_of(judged, split="test"), "t2i.json", (LICENCE,))
    if files := folder.names(r"(.*/)?t2i[/-][^/]*\.parquet"):
        rows = Rows(folder, COLUMNS, OPTIONAL)
        groups = groups_of(rows.collect(files, _row, bad), split="test")
        return SourceData(groups, "t2i/*.parquet", (LICENCE, *unread_note(rows.unread)))
    raise SourceError(
        f"{folder.root}: neither t2i.json nor t2i/*.parquet; t2i_response_only.json has no "
        "captions: make t2i.json with the repository's benchmark/build_from_hf.py"
    )


def _pair(record: Record, folder: InputFolder) -> tuple[str, Judgement]:
    prompt = Record({"prompt_content": _only(record, "prompt_content", "text")}, record.origin)
    responses = [
        Record(record.get(f"response_{side}", kind=dict), f"{record.origin}, response_{side}")
        for side in "ab"
    ]
    names = (_only(response, "response_content", "image") for response in responses)
    return record.get("id", kind=str), Judgement(
        prompt=prompt.caption("prompt_content"),
        images=tuple(folder.find(name, ("", "images")) for name in names),
        votes=_votes(record),
        generators=tuple(response.get("model_name", kind=str) for response in responses),
    )


def _only(record: Record, name: str, kind: str) -> str:
    """The one part of a content, which is of that kind."""
    content = record.get(name, kind=list)
    match content:
        case [[found, str(value)]] if found == kind:
            return value
    record.fail(name, f"is {quoted(content)}", f"expected one {kind}: [[{kind!r}, ...]]")


def _row(record: Record, file: FileRef) -> tuple[str, Judgement]:
    annotations = {"human_annotations": record.parsed("human_annotations")}
    return record.get("pair_id", kind=str), Judgement(
        prompt=record.caption("prompt_text"),
        images=cells(file, record, "response_a_images", "response_b_images"),
        votes=_votes(Record({**record.fields, **annotations}, record.origin)),
        generators=tuple(record.get(f"response_{side}_model", kind=str) for side in "ab"),
    )


def _votes(record: Record) -> tuple[float, float]:
    """How many prefer A, and how many B."""
    marks = record.counts("human_annotations")
    if not marks or not all(1 <= mark <= 6 for mark in marks):
        record.fail("human_annotations", f"is {quoted(marks)}", "expected marks from 1 to 6")
    first = float(sum(mark > 3 for mark in marks))
    second = len(marks) - first
    chosen = record.get("chosen", kind=str).upper()
    if first != second and chosen != ("A" if first > second else "B"):
        record.fail("chosen", f"is {chosen!r}", f"{first:g} prefer A and {second:g} prefer B")
    return first, second


SOURCE = Source(
    name="mmrb2",
    read=read,
    hub_id="rl-research/multimodal-rewardbench-2",
    licence="CC-BY-NC-4.0",
    gigabytes=2,
    patterns=("t2i/*.parquet", "t2i-*.parquet"),
    test_splits=("test",),
)
