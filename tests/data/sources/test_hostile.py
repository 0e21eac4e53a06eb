"""Records as nobody would write them: each is named, none is a traceback or quietly misread."""

import json
import math

import pyarrow as pa
import pytest
from pyarrow import parquet

from lrt_jax.data.schema import FileRef, Group
from lrt_jax.data.sources import SourceError, read_groups, read_source
from lrt_jax.data.sources.checking import check_group
from tests.data.sources.made import image, json_lines, table, write

OWN = {"caption": "p", "images": ["a.jpg", "b.jpg"], "winner": 0}
VOTE = {"votedFor": "a.jpg", "userDetails": {"userScores": {"global": 0.5}}}
RAPIDATA = {"prompt": "p", "image1": image("a"), "image2": image("b")}
WEIGHTED = RAPIDATA | {f"weighted_results_image{i}_preference": i - 1.0 for i in (1, 2)}
HPD = {"prompt": "p", "image_path": ["a.jpg", "b.jpg"]}


def refused(source, folder, message) -> None:
    """Reading it ends in this error; or, where bad records are left out, with one of them told."""
    with pytest.raises(SourceError, match=message):
        read_groups(source, folder)
    data = read_source(source, folder, skip_bad=True)
    assert len(data.bad_records) == len(data.groups) == 1


@pytest.mark.parametrize(
    ("annotations", "message"),
    [
        ([None], r"raw_annotations\[0\]: is a NoneType, expected an object"),
        ([{"rank": [1, 2]}, [1, 2]], r"raw_annotations\[1\]: is a list, expected an object"),
        ([{"rank": [1, float("inf")]}], r"raw_annotations\[0\]: field 'rank' is .*finite numbers"),
    ],
)
def test_annotations_of_hpdv2(tmp_path, annotations, message):
    test = HPD | {"rank": [1, 2]}
    write(tmp_path / "test.json", [test | {"raw_annotations": annotations}, test])
    refused("hpdv2", tmp_path, message)
    (group,) = read_source("hpdv2", tmp_path, skip_bad=True).groups
    assert group.group_id == "test-1"  # its number in the file


@pytest.mark.parametrize(
    ("source", "name", "good"),
    [
        ("hpdv2", "test.json", HPD | {"rank": [1, 2]}),
        ("hpdv3", "train.json", {"prompt": "p", "path1": "a", "path2": "b", "choice_dist": [2, 1]}),
        (
            "imagereward",
            "test.json",
            {"id": 1, "prompt": "p", "generations": ["a", "b"], "ranking": [1, 2]},
        ),
    ],
)
@pytest.mark.parametrize("entry", [None, 7, "text", [1]])
def test_entries_of_a_list_that_are_no_records(tmp_path, source, name, good, entry):
    write(tmp_path / name, [entry, good])
    refused(source, tmp_path, rf"{name}, record 0: is a \w+, expected an object with fields")


@pytest.mark.parametrize("score", [10**400, True, -1, 1e308, float("nan"), "1"])
def test_scores_of_voters_that_are_none(tmp_path, score):
    good, bad = VOTE, VOTE | {"userDetails": {"userScores": score}}
    rows = [WEIGHTED | {"detailed_results_preference": json.dumps([v])} for v in (good, bad)]
    table(tmp_path / "t.parquet", rows)
    refused(
        "rapidata", tmp_path, "record 1: field 'detailed_results_preference' has a vote without"
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"group_id": [1]}, r"field 'group_id' is \[1\]; expected str or int"),
        ({"group_id": 1.5}, r"field 'group_id' is 1.5; expected str or int"),
        ({"group_id": True}, r"field 'group_id' is True; expected str or int"),
        ({"images": ["a.jpg", None]}, r"field 'images' is \['a.jpg', None\]; expected paths"),
        ({"images": {"a": 1, "b": 2}}, r"field 'images' is .*; expected list"),
        ({"winner": 10**400}, r"field 'winner' is 10+\.\.\.0+; expected 0 to 1"),
        ({"winner": float("nan")}, r"field 'winner' is nan; expected int or str"),
        ({"split": "all"}, r"field 'split' is 'all'; use letters"),
        ({"split": 3}, r"field 'split' is 3; expected str"),
        ({"generators": ["m", 3]}, r"field 'generators' is \['m', 3\]"),
    ],
)
def test_fields_of_ones_own(tmp_path, change, message):
    json_lines(tmp_path / "t.jsonl", [OWN, OWN | change])
    refused("folder", tmp_path, message)


@pytest.mark.parametrize("ranks", [[-1, 2], [1e300, 1], [1, 2**24 + 1]])
def test_ranks_beyond_all_bounds(tmp_path, ranks):
    row = {"caption": "p", "images": ["a.jpg", "b.jpg"]}
    json_lines(tmp_path / "t.jsonl", [OWN, row | {"ranks": ranks}])
    refused("folder", tmp_path, "field 'ranks' has .*; expected 1 for the best image and more")


@pytest.mark.parametrize("weighted", [(math.inf, 1.0), (-1.0, 1.0), (math.nan, 1.0)])
def test_weighted_votes_beyond_all_bounds(weighted):
    group = Group("g", "p", (FileRef("a"), FileRef("b")), ((0, 1, 1, 0),), weighted=(weighted,))
    with pytest.raises(SourceError, match=r"group 'g': field 'weighted' votes are"):
        check_group(group, "here")


def test_a_group_named_like_a_row_is_another_group(tmp_path):
    json_lines(tmp_path / "t.jsonl", [OWN, OWN | {"group_id": "row 0", "winner": 1}])
    assert [g.group_id for g in read_groups("folder", tmp_path)] == ["row 0", "row 0"]


def test_groups_numbered_in_text_and_not_are_one(tmp_path):
    row = {"prompt": "p", "image_0": "a", "image_1": "b", "rank_0": 1, "rank_1": 2}
    json_lines(tmp_path / "pairs.jsonl", [row | {"group_id": 1}, row | {"group_id": "1"}])
    (group,) = read_groups("imagereward", tmp_path)
    assert len(group.pairs) == 2
    rows = [
        {"image_path": x, "prompt_id": i, "prompt": "p", "rank": 1}
        for x, i in zip("abcd", (1, 1, "1", "1"), strict=True)
    ]
    write(tmp_path / "j/train_1.json", rows)
    (group,) = read_groups("imagereward", tmp_path / "j")
    assert len(group.images) == 4


# ---------------------------------------------------------------------------- tables


def test_a_key_that_is_there_twice(tmp_path):
    twice = json.dumps(OWN).replace('"winner": 0', '"winner": 0, "winner": 1')
    write(tmp_path / "t.jsonl", json.dumps(OWN) + "\n" + twice)
    refused("folder", tmp_path, r"line 2: not JSON \(the key 'winner' is there twice\)")


def test_columns_that_are_there_twice(tmp_path):
    write(tmp_path / "a/t.csv", "caption,image_0,image_1,winner,winner\np,a,b,0,1\n")
    (tmp_path / "b").mkdir()
    names = ["caption", "image_0", "image_1", "winner", "winner"]
    values = [pa.array([value]) for value in ("p", "a", "b", 0, 1)]
    parquet.write_table(pa.Table.from_arrays(values, names), tmp_path / "b/t.parquet")
    for folder in ("a", "b"):
        with pytest.raises(SourceError, match=r"has two columns 'winner'; rename or remove one"):
            read_groups("folder", tmp_path / folder)


def test_a_row_of_csv_that_is_too_short(tmp_path):
    write(tmp_path / "t.csv", "caption,image_0,image_1,winner\np,a,b\np,a,b,0\n")
    refused("folder", tmp_path, r"record 0: has 3 values for 4 columns")


def test_a_value_of_parquet_that_python_cannot_hold(tmp_path):
    row = {"caption": "p", "image_0": "a", "image_1": "b", "winner": 0}
    made = pa.Table.from_pylist([row, row]).append_column(
        "choice", pa.array([2**60, 0], pa.timestamp("ms"))
    )
    parquet.write_table(made, tmp_path / "t.parquet")
    refused("folder", tmp_path, r"t\.parquet, record 0: holds a value that cannot be read")


@pytest.mark.parametrize(
    ("source", "name", "message"),
    [
        ("hpdv2", "train.json", "not JSON"),
        ("hpdv3", "test.json", "not JSON"),
        ("imagereward", "pairs.jsonl", "holds no records"),
        ("imagereward", "metadata-train.parquet", "not a readable parquet file"),
        ("imagereward", "train_1.json", "not JSON"),
        ("pickapic", "train-00000-of-00001.parquet", "not a readable parquet file"),
        ("rapidata", "t.parquet", "not a readable parquet file"),
        ("genai_bench", "image_generation/t.parquet", "not a readable parquet file"),
        ("mmrb2", "t2i.json", "not JSON"),
        ("mmrb2", "t2i/t.parquet", "not a readable parquet file"),
        ("folder", "t.jsonl", "holds no records"),
        ("folder", "t.csv", "holds no records"),
        ("folder", "t.parquet", "not a readable parquet file"),
    ],
)
def test_empty_files(tmp_path, source, name, message):
    write(tmp_path / name, b"")
    with pytest.raises(SourceError, match=message):
        read_groups(source, tmp_path)
    (tmp_path / name).unlink()
    (tmp_path / name).mkdir()  # a folder of the name is no file
    with pytest.raises(SourceError, match="no|neither"):
        read_groups(source, tmp_path)


@pytest.mark.parametrize(
    "name", ["naïve ☃.jpg", "a b'c\"d.jpg", "x" * 200 + ".jpg", "[0]*?.jpg", "ж/é.jpg"]
)
def test_names_of_images_are_taken_as_they_are(tmp_path, name):
    write(tmp_path / name, "x")
    json_lines(tmp_path / "t.jsonl", [OWN | {"images": [name, "b.jpg"]}])
    assert read_groups("folder", tmp_path)[0].images[0] == FileRef(name)
