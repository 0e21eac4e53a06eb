"""Pick-a-Pic, as published."""

import datetime

import pytest

from lrt_jax.data.schema import FileRef
from lrt_jax.data.sources import SourceError, read_groups, read_source
from tests.data.sources.made import shown, table


def row(first, second, labels=(1.0, 0.0), ranking=7, caption="p", **more):
    """All columns of the published schema."""
    fields = {
        "are_different": True,
        "best_image_uid": f"uid-{first}",
        "caption": caption,
        "created_at": datetime.datetime(2023, 4, 1),
        "has_label": True,
        "image_0_uid": f"uid-{first}",
        "image_0_url": f"https://example.com/{first}",
        "image_1_uid": f"uid-{second}",
        "image_1_url": f"https://example.com/{second}",
        "jpg_0": first.encode(),
        "jpg_1": second.encode(),
        "label_0": labels[0],
        "label_1": labels[1],
        "model_0": f"model {first}",
        "model_1": f"model {second}",
        "ranking_id": ranking,
        "user_id": 3,
        "num_example_per_prompt": 1,
        "__index_level_0__": 0,
    }
    return fields | more


def test_splits_rankings_and_ties(tmp_path):
    train = tmp_path / "data/train-00000-of-00645-b66ac786bf6fb553.parquet"
    table(train, [row("a", "b"), row("c", "a", (0.5, 0.5)), row("d", "e", ranking=8, caption="q")])
    unique = tmp_path / "data/test_unique-00000-of-00001-0a1b2c3d.parquet"
    table(unique, [row("f", "g", (0.0, 1.0))])
    data = read_source("pickapic", tmp_path)
    test, first, second = data.groups
    assert (first.group_id, first.prompt, first.split) == ("train-7", "p", "train")
    assert first.pairs == ((0, 1, 1, 0), (2, 0, 0.5, 0.5))
    assert first.generators == ("model a", "model b", "model c")
    assert first.criterion == "overall" and first.ranks is None and first.weighted is None
    file = "data/train-00000-of-00645-b66ac786bf6fb553.parquet"
    assert first.images == tuple(
        FileRef.cell(file, c, r) for c, r in (("jpg_0", 0), ("jpg_1", 0), ("jpg_0", 1))
    )
    assert (second.group_id, second.prompt) == ("train-8", "q")
    assert (test.group_id, test.split, test.pairs) == (
        "test_unique-7",
        "test_unique",
        ((0, 1, 0, 1),),
    )
    assert shown(tmp_path, data.groups) == [[b"f", b"g"], [b"a", b"b", b"c"], [b"d", b"e"]]
    assert data.notes == ()


def test_rows_without_a_label_are_left_out_and_counted(tmp_path):
    rows = [row("a", "b"), row("c", "d", (None, None), has_label=False)]
    table(tmp_path / "train-00000-of-00001.parquet", rows)
    data = read_source("pickapic", tmp_path)
    assert len(data.groups) == 1
    assert data.notes == ("1 rows without a label: left out",)


def test_images_without_uids_are_known_by_where_they_lie(tmp_path):
    rows = [row("a", "b", image_0_uid=None), row("a", "c", image_0_uid=None)]
    table(tmp_path / "train-00000-of-00001.parquet", rows)
    (group,) = read_groups("pickapic", tmp_path)
    assert [pair[:2] for pair in group.pairs] == [(0, 1), (2, 3)]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([row("a", "b", (1.0, 1.0))], r"record 0: field 'label_0' is 1 and label_1 1; expected 1 "),
        ([row("a", "b", (-1.0, 2.0))], r"field 'label_0' is -1 and label_1 2"),
        ([row("a", "b", (float("nan"), 1.0))], r"field 'label_0' is nan"),
        ([row("a", "b", (None, 1.0))], r"field 'label_0' is None"),
        ([row("a", "b"), row("c", "d", caption="q")], r"record 1: the caption is 'q', but its"),
        ([row("a", "b", caption=" ")], r"field 'caption' is empty"),
    ],
)
def test_bad_rows(tmp_path, rows, message):
    table(tmp_path / "train-00000-of-00001.parquet", rows)
    with pytest.raises(SourceError, match=message):
        read_groups("pickapic", tmp_path)


def test_bad_rows_can_be_left_out(tmp_path):
    rows = [row("a", "b"), row("c", "d", (1.0, 1.0))]
    table(tmp_path / "train-00000-of-00001.parquet", rows)
    data = read_source("pickapic", tmp_path, skip_bad=True)
    assert [group.pairs for group in data.groups] == [((0, 1, 1, 0),)]
    assert len(data.bad_records) == 1


def test_columns(tmp_path):
    path = tmp_path / "train-00000-of-00001.parquet"
    table(path, [row("a", "b", mood=1)])
    assert read_source("pickapic", tmp_path).notes == ("columns that are not read: mood",)
    table(
        path, [{k: v for k, v in row("a", "b").items() if k != "jpg_1"}]
    )  # the set without images
    with pytest.raises(SourceError, match="lacks the columns jpg_1; it has are_different,"):
        read_groups("pickapic", tmp_path)


def test_a_folder_of_something_else(tmp_path):
    with pytest.raises(SourceError, match="give the folder of Pick-a-Pic"):
        read_groups("pickapic", tmp_path)
