"""Human Preference Dataset v3 (Ma et al., arXiv 2508.03789), as published: JSON and a split tar.

`train.json` and `test.json`, lists of `{prompt, path1, path2, confidence, choice_dist, model1,
model2}`, or `all.json`, which has both; `images.tar.gz.00`, `.01` and so on, which are read as they
are, or the `images` folder that they hold. path1 is always the preferred image. choice_dist counts
the votes for path1 and path2; it is null where no one counted, and then path1 has one vote.

That records of one prompt belong together is our choice. Of the other files, imagereward.json and
pickapic.json name images of other sets and are passed over.
"""

from lrt_jax.data.schema import Group
from lrt_jax.data.sources.files import InputFolder, SourceError
from lrt_jax.data.sources.pairwise import Judged, Judgement, add_judgements, groups_of, numbered
from lrt_jax.data.sources.reading import Record, read_json
from lrt_jax.data.sources.source import BadRecords, Source, SourceData

WINNER_FIRST = (
    "the image listed first is always the preferred one: the order says the answer, so train with "
    "swaps and evaluate in both orders"
)
OVERLAP = "holds images of HPDv2 in its training part: look for them before testing on HPDv2"


def read(folder: InputFolder, bad: BadRecords) -> SourceData:
    """Reads train.json and test.json, or all.json where neither is there.

    Raises:
      SourceError: none of the three is there, or one is not in the published layout.
    """
    files = {name: folder.table(rf"(.*/)?{name}\.json") for name in ("train", "test")}
    if not any(files.values()):
        files = {None: folder.table(r"(.*/)?all\.json")}
    if not any(files.values()):
        raise SourceError(
            f"{folder.root}: no train.json, test.json or all.json; give the folder of HPDv3, with "
            "its images.tar.gz.* as they are, or unpacked"
        )
    groups, uncounted = [], []
    for split, file in files.items():
        groups += _groups(folder, file, split, uncounted, bad) if file else []
    notes = (WINNER_FIRST, OVERLAP)
    if uncounted:
        notes += (f"{len(uncounted)} pairs have no choice_dist: one vote for path1 each",)
    layout = " + ".join(f"{name or 'all'}.json" for name, file in files.items() if file)
    return SourceData(groups, layout, notes)


def _groups(folder: InputFolder, file, split: str | None, uncounted, bad) -> list[Group]:
    judged: Judged = {}
    rows = ((record, folder, uncounted) for record in read_json(folder, file, bad))
    add_judgements(judged, rows, _judgement, bad)
    return groups_of(numbered(judged, split or "all"), split=split)


def _judgement(record: Record, folder: InputFolder, uncounted: list) -> tuple[str, Judgement]:
    prompt = record.caption()
    votes = _votes(record, uncounted)
    images = tuple(folder.find(record.get(f"path{i}", kind=str), ("", "images")) for i in (1, 2))
    models = tuple(record.fields.get(f"model{i}") for i in (1, 2))
    generators = models if all(isinstance(model, str) for model in models) else None
    return prompt, Judgement(prompt, images, votes, generators)


def _votes(record: Record, uncounted: list[str]) -> tuple[float, float]:
    if not record.fields.get("choice_dist"):  # null, or an empty list
        uncounted.append(record.origin)
        return 1.0, 0.0
    first, second = record.counts("choice_dist", length=2)
    if first < second:
        record.fail("choice_dist", f"is {first:g} to {second:g}", "path1 is the preferred image")
    return first, second


SOURCE = Source(
    name="hpdv3",
    read=read,
    hub_id="MizzenAI/HPDv3",
    licence="MIT",
    gigabytes=141,
    patterns=("train.json", "test.json", "images.tar.gz.*"),
    test_splits=("test",),
)
