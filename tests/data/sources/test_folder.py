"""Data of one's own: three kinds of files, three kinds of judgements."""

import pytest

from lrt_jax.data.schema import FileRef, Group
from lrt_jax.data.sources import SourceError, read_groups, read_source
from tests.data.sources.made import image, json_lines, shown, table, touch, write, zipped

PAIR = {"caption": "p", "images": ["a.jpg", "b.jpg"]}


def test_json_lines(tmp_path):
    a, b, c = touch(tmp_path, "images", "a.jpg", "b.jpg", "c.jpg")
    three = {"caption": "q", "images": ["a.jpg", "b.jpg", "c.jpg"]}
    rows = [
        PAIR | {"winner": 1},
        PAIR | {"winner": "a.jpg", "split": "test", "criterion": "style", "generators": ["m", "n"]},
        PAIR | {"winner": "tie"},
        PAIR | {"votes": [7, 0]},
        three | {"ranks": [2, 1, 2]},
        three | {"winner": 2},
        three | {"votes": [1, 2, 3]},
    ]
    json_lines(tmp_path / "mine.jsonl", rows)
    ranked = ((0, 1, 0, 1), (0, 2, 0.5, 0.5), (1, 2, 1, 0))
    assert read_groups("folder", tmp_path) == [
        Group("row 0", "p", (a, b), ((0, 1, 0, 1),)),
        Group(
            "row 1",
            "p",
            (a, b),
            ((0, 1, 1, 0),),
            split="test",
            generators=("m", "n"),
            criterion="style",
        ),
        Group("row 2", "p", (a, b), ((0, 1, 0.5, 0.5),)),
        Group("row 3", "p", (a, b), ((0, 1, 7, 0),)),
        Group("row 4", "q", (a, b, c), ranked, ranks=(2, 1, 2)),
        Group("row 5", "q", (a, c, b), ((0, 1, 0, 1), (2, 1, 0, 1))),
        Group("row 6", "q", (a, b, c), ((0, 1, 1, 2), (0, 2, 1, 3), (1, 2, 2, 3))),
    ]


def test_rows_of_one_group(tmp_path):
    a, b, c = touch(tmp_path, "", "a.jpg", "b.jpg", "c.jpg")
    rows = [
        PAIR | {"group_id": 5, "winner": 0},
        PAIR | {"group_id": 5, "images": ["c.jpg", "a.jpg"], "votes": [1, 4]},
        PAIR | {"group_id": "6", "winner": 1},
        PAIR | {"group_id": 5, "winner": 1},  # the opposite of the first: the builder adds both up
    ]
    json_lines(tmp_path / "mine.jsonl", rows)
    assert read_groups("folder", tmp_path) == [
        Group("5", "p", (a, b, c), ((0, 1, 1, 0), (2, 0, 1, 4), (0, 1, 0, 1))),
        Group("6", "p", (a, b), ((0, 1, 0, 1),)),
    ]


CSV = """\ufeff\
caption,image_0,image_1,image_2,winner,votes_0,votes_1,rank_0,rank_1,rank_2,split
"a, b",a.jpg,b.jpg,,1,,,,,,
p,a.jpg,b.jpg,,,3,4,,,,
p,a.jpg,b.jpg,c.jpg,,,,1,2.5,2.5,
p,a.jpg,b.jpg,,b.jpg,,,,,,
"""


def test_csv(tmp_path):
    zipped(tmp_path / "all.zip", **{f"{name}.jpg": name for name in "abc"})
    write(tmp_path / "mine.csv", CSV)
    groups = read_groups("folder", tmp_path)
    assert [group.prompt for group in groups] == ["a, b", "p", "p", "p"]
    assert [group.pairs for group in groups] == [
        ((0, 1, 0, 1),),
        ((0, 1, 3, 4),),
        ((0, 1, 1, 0), (0, 2, 1, 0), (1, 2, 0.5, 0.5)),
        ((0, 1, 0, 1),),
    ]
    assert groups[2].ranks == (1, 2.5, 2.5)
    assert groups[0].generators is None
    assert shown(tmp_path, groups)[2] == [b"a", b"b", b"c"]


def test_parquet_with_paths(tmp_path):
    touch(tmp_path, "", "a.jpg", "b.jpg")
    table(tmp_path / "mine.parquet", [PAIR | {"votes": [1, 2]}, PAIR | {"votes": [3, 0]}])
    groups = read_groups("folder", tmp_path)
    assert [group.pairs for group in groups] == [((0, 1, 1, 2),), ((0, 1, 3, 0),)]
    assert shown(tmp_path, groups) == [[b"a.jpg", b"b.jpg"]] * 2


@pytest.mark.parametrize("cell", [image, str.encode])
def test_parquet_with_bytes(tmp_path, cell):
    rows = [{"caption": "p", "image_0": cell("a"), "image_1": cell("b"), "winner": 1}]
    table(tmp_path / "mine.parquet", rows)
    (group,) = read_groups("folder", tmp_path)
    assert group.images == tuple(FileRef.cell("mine.parquet", f"image_{i}", 0) for i in (0, 1))
    assert group.pairs == ((0, 1, 0, 1),)
    assert shown(tmp_path, [group]) == [[b"a", b"b"]]


def test_columns_that_nobody_knows_are_named(tmp_path):
    json_lines(tmp_path / "mine.jsonl", [PAIR | {"winner": 0, "mood": 1}])
    assert read_source("folder", tmp_path).notes == ("columns that are not read: mood",)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"images": ["a", "b"]}, r"line 1: field 'caption' is missing; a row has caption, images"),
        ({"caption": "p", "images": ["a"]}, r"field 'images' names 1 images; a row has"),
        ({"caption": "p"}, r"field 'images' names 0 images"),
        (
            {"caption": "p", "images": ["a", "./a", "b"], "ranks": [1, 1, 2]},
            r"line 1: field 'images' names ./a twice; name each image once",
        ),
        (PAIR, r"field 'winner' or votes or ranks: there is not just one of them; a row has"),
        (PAIR | {"winner": 0, "votes": [1, 0]}, r"there is not just one of them"),
        (PAIR | {"winner": 2}, r"field 'winner' is 2; expected 0 to 1, an image's path, or tie"),
        (PAIR | {"winner": "c.jpg"}, r"field 'winner' is 'c.jpg'"),
        (PAIR | {"winner": True}, r"field 'winner' is True"),
        (PAIR | {"votes": [1]}, r"field 'votes' has 1 entries; expected 2"),
        (PAIR | {"votes": [1, -2]}, r"field 'votes' is \[1.0, -2.0\]; expected counts"),
        (PAIR | {"votes": [1, 0.5]}, r"expected counts"),
        (PAIR | {"votes": [1, float("nan")]}, r"expected finite numbers"),
        (PAIR | {"ranks": ["1", 2]}, r"field 'ranks' is"),
        (PAIR | {"winner": 0, "criterion": "mood"}, r"'criterion' is 'mood'; expected one of over"),
        (PAIR | {"winner": 0, "generators": ["m"]}, r"'generators' has 1 entries; expected 2"),
        ({"caption": "p", "image_0": "a", "image_2": "b", "winner": 0}, r"'image_1' is missing"),
    ],
)
def test_bad_rows(tmp_path, row, message):
    json_lines(tmp_path / "mine.jsonl", [row])
    with pytest.raises(SourceError, match=message):
        read_groups("folder", tmp_path)


def test_groups_that_do_not_agree(tmp_path):
    first = PAIR | {"group_id": 1, "winner": 0}
    json_lines(tmp_path / "mine.jsonl", [first, first | {"caption": "q"}])
    with pytest.raises(SourceError, match=r"line 2: field 'caption' differs; the group began at"):
        read_groups("folder", tmp_path)
    json_lines(tmp_path / "mine.jsonl", [first, first | {"split": "test"}])
    with pytest.raises(SourceError, match=r"line 2: field 'split' or criterion differs"):
        read_groups("folder", tmp_path)


def test_numbers_of_csv_that_are_none(tmp_path):
    write(tmp_path / "mine.csv", "caption,image_0,image_1,votes_0,votes_1\np,a,b,many,1\n")
    with pytest.raises(SourceError, match=r"record 0: field 'votes' is \['many', 1\]; expected a"):
        read_groups("folder", tmp_path)
    write(tmp_path / "mine.csv", "caption,image_0,image_1\np,a\n")
    with pytest.raises(SourceError, match=r"record 0: has 2 values for 3 columns"):
        read_groups("folder", tmp_path)


def test_one_kind_of_files(tmp_path):
    with pytest.raises(SourceError, match=r"no \*\.jsonl, \*\.csv or \*\.parquet; give one kind"):
        read_groups("folder", tmp_path)
    json_lines(tmp_path / "mine.jsonl", [PAIR | {"winner": 0}])
    write(tmp_path / "mine.csv", "caption\n")
    with pytest.raises(SourceError, match=r"holds \.csv and \.jsonl; give one kind"):
        read_groups("folder", tmp_path)


def test_long_captions_are_read(tmp_path):
    json_lines(tmp_path / "mine.jsonl", [PAIR | {"caption": "x" * 10_000, "winner": 0}])
    (group,) = read_groups("folder", tmp_path)
    assert group.prompt == "x" * 10_000
