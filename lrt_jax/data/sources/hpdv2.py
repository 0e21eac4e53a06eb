"""Human Preference Dataset v2 (Wu et al., arXiv 2306.09341), as published: JSON and folders.

* `train.json`: `[{prompt, file_path[2] or image_path[2], human_preference[2]}]`, 1 = preferred.
* `test.json`: `[{prompt, image_path[], rank[], raw_annotations[{rank[], user_hash}]}]`; `rank` is
  the mean over annotators, 1 is best.

Images lie in `train/`, `test/` or `images/`, or in archives.
"""

from pathlib import PurePosixPath

import numpy as np

from lrt_jax.data.schema import FileRef, Group
from lrt_jax.data.sources.archives import without_endings
from lrt_jax.data.sources.files import InputFolder, SourceError
from lrt_jax.data.sources.pairwise import Pair, pairs_of_ranking
from lrt_jax.data.sources.reading import Record, group_by, read_json
from lrt_jax.data.sources.source import BadRecords, Source, SourceData


def read(folder: InputFolder, bad: BadRecords) -> SourceData:
    """Reads whichever of `train.json` and `test.json` is there.

    Raises:
      SourceError: neither is, or one is not in the published layout.
    """
    groups, layouts, notes = [], [], []
    if file := folder.table(r"(.*/)?train\.json"):
        by_prompt = group_by(read_json(folder, file, bad), "prompt", bad, kind=str)
        each = ((f"train-{i}", *item, folder) for i, item in enumerate(by_prompt.items()))
        groups += bad.all_of(_train_group, each)
        layouts.append("train.json")
    if file := folder.table(r"(.*/)?test\.json"):
        records = read_json(folder, file, bad)
        groups += bad.all_of(_test_group, ((record, folder) for record in records))
        layouts.append("test.json")
        if unannotated := sum("raw_annotations" not in record for record in records):
            notes.append(
                f"{unannotated} test groups have no raw_annotations: each of their pairs counts "
                "one vote for the better mean rank"
            )
    if not layouts:
        raise SourceError(
            f"{folder.root}: neither train.json nor test.json; give the folder that holds them"
        )
    return SourceData(groups, " + ".join(layouts), tuple(notes))


def _train_group(group_id: str, prompt: str, records: list[Record], folder: InputFolder) -> Group:
    indices: dict[str, int] = {}
    pairs = []
    for record in records:
        record.caption()
        names = record.texts("file_path", "image_path", length=2)
        first, second = (indices.setdefault(name, len(indices)) for name in names)
        pairs.append((first, second, *_preference(record)))
    images = tuple(_image(name, folder, "train") for name in indices)
    return Group(group_id, prompt, images, tuple(pairs), split="train")


def _preference(record: Record) -> tuple[float, float]:
    votes = record.numbers("human_preference", length=2)
    if sorted(votes) != [0, 1]:
        record.fail(
            "human_preference", f"is {votes}", "expected 1 for one image and 0 for the other"
        )
    return votes[0], votes[1]


def _test_group(record: Record, folder: InputFolder) -> Group:
    names = record.texts("image_path")
    record.check_ranked("image_path", len(names))
    ranks = record.numbers("rank", length=len(names))
    return Group(
        group_id=f"test-{record.row}",
        prompt=record.caption(),
        images=tuple(_image(name, folder, "test") for name in names),
        pairs=_annotated_pairs(record, len(names)) or pairs_of_ranking(ranks),
        ranks=tuple(ranks),
        split="test",
        # the generators' names are not published, but their order is the same in every group
        generators=tuple(f"position {i}" for i in range(len(names))),
    )


def _annotated_pairs(record: Record, count: int) -> tuple[Pair, ...]:
    """Votes of every pair: annotators who rank one image better; one who ties them is split."""
    if "raw_annotations" not in record:
        return ()
    annotations = record.objects("raw_annotations")
    rankings = np.array([x.numbers("rank", length=count) for x in annotations])
    rankings = rankings.reshape(-1, count, 1)
    rivals = rankings.transpose(0, 2, 1)
    votes = (rankings < rivals).sum(0) + 0.5 * (rankings == rivals).sum(0)
    firsts, seconds = np.triu_indices(count, k=1)
    return tuple(
        (int(i), int(j), float(votes[i, j]), float(votes[j, i]))
        for i, j in zip(firsts, seconds, strict=True)
        if len(rankings)
    )


def _image(name: str, folder: InputFolder, split: str) -> FileRef:
    """Where it lies, which is never among the other split's: the two number theirs alike."""
    ref = folder.find(name, (split, "images", ""))
    path = PurePosixPath(without_endings(ref.file), ref.member)
    other = {"train": "test", "test": "train"}[split]
    return FileRef(str(PurePosixPath(split, name))) if other in path.parts[:-1] else ref


SOURCE = Source(
    name="hpdv2",
    read=read,
    hub_id="ymhao/HPDv2",
    licence="Apache-2.0",
    gigabytes=32,
    patterns=("train.json", "test.json", "train.tar.gz", "test.tar.gz"),
    test_splits=("test",),
)
