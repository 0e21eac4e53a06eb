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
    ],
)
def test_names_that_may_say_several_things(tmp_path, row, message):
    json_lines(tmp_path / "t.jsonl", [row])
    with pytest.raises(SourceError, match=message):
        read_groups("folder", tmp_path)


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
