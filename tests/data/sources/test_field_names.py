"""Fields by the names that they usually have: taken where these say one thing, else asked about."""

import json

import pytest

from lrt_jax.data.sources import SourceError, read_groups, read_source
from tests.data.sources.made import image, json_lines, shown, table, write

TWO = {"caption": "p", "image_0": "a.jpg", "image_1": "b.jpg"}
FROM_ONE = {"prompt": "p", "image_1": "a.jpg", "image_2": "b.jpg"}
LISTED = {"caption": "p", "images": ["a.jpg", "b.jpg"]}


@pytest.mark.parametrize(
    ("row", "votes"),
    [
        ({"prompt": "p", "image_0": "a.jpg", "image_1": "b.jpg", "preferred": 1}, (0, 1)),
        ({"prompt": "p", "image_path": ["a.jpg", "b.jpg"], "human_preference": [1, 0]}, (1, 0)),
        ({"prompt": "p", "image_paths": ["a.jpg", "b.jpg"], "ranking": [2, 1]}, (0, 1)),
        ({"prompt": "p", "chosen": "a.jpg", "rejected": "b.jpg"}, (1, 0)),
        (FROM_ONE | {"winner": "b.jpg"}, (0, 1)),
        (FROM_ONE | {"preferred": "image_2"}, (0, 1)),
        (FROM_ONE | {"preferred": "tie"}, (0.5, 0.5)),
        (FROM_ONE | {"votes_1": 3, "votes_2": 4}, (3, 4)),
        (FROM_ONE | {"rank_1": 3, "rank_2": 4, "model_1": "m", "model_2": "n"}, (1, 0)),
        ({"prompt": "p", "image1": "a.jpg", "image2": "b.jpg", "votes1": 3, "votes2": 4}, (3, 4)),
        (TWO | {"winner": "image_1"}, (0, 1)),
        (TWO | {"winner": "image_0"}, (1, 0)),
        (LISTED | {"winner": 0, "chosen": "b.jpg", "rejected": "a.jpg"}, (1, 0)),  # is not read
        (LISTED | {"winner": 0, "prompt": "q", "preferred": 1, "rank": 7}, (1, 0)),
    ],
)
def test_usual_names(tmp_path, row, votes):
    json_lines(tmp_path / "t.jsonl", [row])
    (group,) = read_groups("folder", tmp_path)
    assert [ref.file for ref in group.images] == ["a.jpg", "b.jpg"]
    assert (group.prompt, group.pairs) == ("p", ((0, 1, *votes),))
    assert group.generators == (("m", "n") if "model_1" in row else None)


def test_usual_names_in_csv_and_parquet(tmp_path):
    write(tmp_path / "a/t.csv", "prompt,image_1,image_2,preferred\np,a.jpg,b.jpg,b.jpg\n")
    rows = [{"prompt": "p", "chosen": image("a"), "rejected": image("b"), "mood": [[1.0] * 2000]}]
    table(tmp_path / "b/t.parquet", rows)
    (group,) = read_groups("folder", tmp_path / "a")
    assert group.pairs == ((0, 1, 0, 1),)
    data = read_source("folder", tmp_path / "b")
    assert data.groups[0].pairs == ((0, 1, 1, 0),)
    assert shown(tmp_path / "b", data.groups) == [[b"a", b"b"]]
    assert data.notes == ("columns that are not read: mood",)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            TWO | {"label": 1},
            r"not just one of them; .* has label: it may be .*; write winner",
        ),
        (LISTED | {"chosen": "a.jpg", "rejected": "b.jpg"}, r"the record has chosen: it may"),
        ({"text": "p", "image_0": "a", "image_1": "b", "winner": 0}, r"record has text: call it c"),
        (
            {"caption": "p", "image_a": "a", "image_b": "b", "winner": 0},
            r"image_a, image_b: call",
        ),
        (
            FROM_ONE | {"winner": 1},
            r"'winner' is 1, where the images are numbered from 1; wri",
        ),
        (FROM_ONE | {"winner": "2"}, r"'winner' is 2, where the images are numbered from 1"),
        (FROM_ONE | {"votes_0": 1, "votes_1": 2}, r"'votes_0' counts from 0, but the images from"),
        (TWO | {"image0": "c.jpg", "winner": 0}, r"'image0' is there twice, also as 'image_0'"),
        (
            {"caption": "p", "image_path": ["a"], "image_paths": ["b"], "winner": 0},
            r"'image_paths' and 'image_path' may both be meant; call one of them images",
        ),
        (TWO | {"winner": "image_2"}, r"'winner' is 2; expected 0 to 1"),
        (LISTED | {"preferred": "image_1"}, r"'preferred' is image_1, but images is a list"),
        (LISTED | {"winner": "image_0"}, r"'winner' is image_0, but images is a list"),
        (
            {"prompt": "p", "image_paths": ["a.jpg", "b.jpg"], "preferred": "image2"},
            r"'preferred' is image2, but image_paths is a list",
        ),
    ],
)
def test_names_that_may_say_several_things(tmp_path, row, message):
    json_lines(tmp_path / "t.jsonl", [row])
    with pytest.raises(SourceError, match=message):
        read_groups("folder", tmp_path)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (FROM_ONE | {"preferred": 1}, r"field 'preferred' is 1, where the images are numbered"),
        (TWO | {"preferred": 9}, r"field 'preferred' is 9; expected 0 to 1"),
        (TWO | {"preferred_image": [1]}, r"field 'preferred_image' is \[1\]; expected int or str"),
        (FROM_ONE | {"prompt": " ", "winner": "tie"}, r"field 'prompt' is empty"),
        (
            {"caption": "p", "image_paths": ["a.jpg"] * 2, "winner": 0},
            r"field 'image_paths' names a.jpg twice",
        ),
        (
            {"caption": "p", "chosen": "a.jpg", "rejected": "a.jpg"},
            r"field 'chosen and rejected' names a.jpg twice",
        ),
        (TWO | {"human_preference": [1]}, r"field 'human_preference' has 1 entries; expected 2"),
        (TWO | {"ranking": ["1", "2"]}, r"field 'ranking' is \['1', '2'\]; expected a list of"),
        (TWO | {"winner": 0, "models": ["m"]}, r"field 'models' has 1 entries; expected 2"),
        (
            TWO | {"preferred": 0, "human_preference": [1, 0]},
            r"field 'preferred' or human_preference or ranks: there is not just one of them",
        ),
        (
            FROM_ONE | {"image_4": "c.jpg", "winner": "tie"},
            r"field 'image_3' is missing; the record has \['image_1', 'image_2', 'image_4'\]",
        ),
        (
            FROM_ONE | {"votes_1": 1, "votes_3": 2},
            r"field 'votes_2' is missing; the record has \['votes_1', 'votes_3'\]",
        ),
        (
            FROM_ONE | {"winner": "tie", "model1": "m", "model3": "n"},
            r"field 'model2' is missing; the record has \['model1', 'model3'\]",
        ),
        (FROM_ONE | {"image2": "c.jpg", "winner": "tie"}, r"'image2' is .*, also as 'image_2'"),
    ],
)
def test_an_error_names_a_field_as_the_file_has_it(tmp_path, row, message):
    json_lines(tmp_path / "t.jsonl", [row])
    with pytest.raises(SourceError, match=message):
        read_groups("folder", tmp_path)


def test_groups_that_differ_are_told_by_the_files_own_name(tmp_path):
    row = FROM_ONE | {"group_id": 1, "winner": "tie"}
    json_lines(tmp_path / "t.jsonl", [row, row | {"prompt": "q"}])
    with pytest.raises(SourceError, match=r"line 2: field 'prompt' differs; the group began at"):
        read_groups("folder", tmp_path)


def test_images_numbered_from_one_may_come_in_any_order(tmp_path):
    row = dict(reversed((FROM_ONE | {"votes_1": 3, "votes_2": 4}).items()))
    json_lines(tmp_path / "t.jsonl", [row])
    (group,) = read_groups("folder", tmp_path)
    assert [ref.file for ref in group.images] == ["a.jpg", "b.jpg"]
    assert group.pairs == ((0, 1, 3, 4),)


def test_an_empty_image_does_not_renumber_the_others(tmp_path):
    write(tmp_path / "t.csv", "caption,image_0,image_1,image_2,votes_1,votes_2\np,,a,b,3,4\n")
    with pytest.raises(SourceError, match=r"record 0: field 'image_0' is missing"):
        read_groups("folder", tmp_path)


def test_a_winner_in_csv_that_is_a_number_and_a_name(tmp_path):
    write(tmp_path / "t.csv", "caption,image_0,image_1,winner\np,1,0,1\n")
    with pytest.raises(SourceError, match=r"'winner' is 1, a number and an image's name; give the"):
        read_groups("folder", tmp_path)
    rows = [{"caption": "p", "images": ["1", "0"], "winner": winner} for winner in ("1", 1)]
    write(tmp_path / "j/t.jsonl", "\n".join(map(json.dumps, rows)))
    assert [g.pairs[0][2:] for g in read_groups("folder", tmp_path / "j")] == [(1, 0), (0, 1)]


def test_a_path_may_look_like_the_name_of_a_column(tmp_path):
    json_lines(
        tmp_path / "t.jsonl",
        [{"caption": "p", "images": ["image_1", "image_0"]} | {"winner": "image_1"}],
    )
    (group,) = read_groups("folder", tmp_path)
    assert group.pairs == ((0, 1, 1, 0),)
