"""HPDv2, as published."""

import pytest

from lrt_jax.data.schema import FileRef, Group
from lrt_jax.data.sources import SourceError, read_groups, read_source
from tests.data.sources.made import shown, tar_bytes, touch, write

TRAIN = [
    {"prompt": "p", "file_path": ["a.jpg", "b.jpg"], "human_preference": [1, 0]},
    {"prompt": "p", "image_path": ["c.jpg", "a.jpg"], "human_preference": [0, 1]},
    {"prompt": "q", "file_path": ["b.jpg", "c.jpg"], "human_preference": [0, 1]},
]
TEST = {
    "prompt": "p",
    "image_path": ["0.jpg", "1.jpg", "2.jpg"],
    "rank": [1.5, 1.5, 3],
    "raw_annotations": [
        {"rank": [1, 2, 3], "user_hash": "u"},
        {"rank": [2, 1, 3], "user_hash": "v"},
        {"rank": [1, 1, 2], "user_hash": "w"},
    ],
}


def test_train(tmp_path):
    a, b, c = touch(tmp_path, "train", "a.jpg", "b.jpg", "c.jpg")
    write(tmp_path / "train.json", TRAIN)
    assert read_groups("hpdv2", tmp_path) == [
        Group("train-0", "p", (a, b, c), ((0, 1, 1, 0), (2, 0, 0, 1)), split="train"),
        Group("train-1", "q", (b, c), ((0, 1, 0, 1),), split="train"),
    ]


def test_images_stay_in_the_tar_that_is_published(tmp_path):
    names = ("a.jpg", "b.jpg", "c.jpg")
    write(tmp_path / "train.tar.gz", tar_bytes({f"train/{n}": n.encode() for n in names}))
    write(tmp_path / "train.json", TRAIN)
    groups = read_groups("hpdv2", tmp_path)
    assert shown(tmp_path, groups) == [[b"a.jpg", b"b.jpg", b"c.jpg"], [b"b.jpg", b"c.jpg"]]


@pytest.mark.parametrize("member", ["a.jpg", "test/a.jpg", "deep/test/a.jpg"])
def test_images_of_the_other_split_are_not_taken(tmp_path, member):
    write(tmp_path / "test.tar.gz", tar_bytes({member: b"of the test"}))
    write(tmp_path / "train.json", TRAIN)
    assert read_groups("hpdv2", tmp_path)[0].images[0] == FileRef("train/a.jpg")


def test_test_counts_annotators(tmp_path):
    images = touch(tmp_path, "test", "0.jpg", "1.jpg", "2.jpg")
    write(tmp_path / "test.json", [TEST])
    (group,) = read_groups("hpdv2", tmp_path)
    assert group.images == tuple(images)
    assert group.pairs == ((0, 1, 1.5, 1.5), (0, 2, 3, 0), (1, 2, 3, 0))
    assert group.ranks == (1.5, 1.5, 3)
    assert group.split == "test"
    assert len(set(group.generators)) == 3


def test_test_without_annotations_falls_back_and_says_so(tmp_path):
    early = {k: v for k, v in TEST.items() if k != "raw_annotations"}
    write(tmp_path / "test.json", [early])
    data = read_source("hpdv2", tmp_path)
    assert data.groups[0].pairs == ((0, 1, 0.5, 0.5), (0, 2, 1, 0), (1, 2, 1, 0))
    assert "no raw_annotations" in data.notes[0]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("test.json", [TEST | {"rank": [1, 2]}], r"record 0: field 'rank' has 2"),
        ("test.json", [{"image_path": ["a", "b"]}], r"record 0: field 'rank' is missing"),
        (
            "test.json",
            [TEST, TEST | {"raw_annotations": [{"rank": [1, 2, "3"]}]}],
            r"record 1, raw_annotations\[0\]: field 'rank'.*list of int or float",
        ),
        (
            "train.json",
            [{"prompt": "p", "file_path": ["a", "b"], "human_preference": [1, 1]}],
            r"train\.json, record 0: field 'human_preference' is \[1\.0, 1\.0\]",
        ),
        ("train.json", [{"prompt": 3}], r"field 'prompt' is 3; expected str;"),
        ("train.json", {"a": 1}, r"train\.json: holds a dict, expected a list"),
        ("train.json", "[{", r"train\.json: not JSON"),
        ("other.json", [], r"neither train\.json nor test\.json"),
    ],
)
def test_errors_name_the_place_and_the_remedy(tmp_path, name, content, message):
    write(tmp_path / name, content)
    with pytest.raises(SourceError, match=message):
        read_groups("hpdv2", tmp_path)


def test_gallery(real_data):
    groups = read_groups("hpdv2", real_data / "hpd_gallery")
    pairs = [pair for group in groups for pair in group.pairs]
    assert len(groups) == 75
    assert len({image for group in groups for image in group.images}) == 675
    assert len(pairs) == 2700
    assert sum(first == second for *_, first, second in pairs) == 135
    assert all(first + second == 10 for *_, first, second in pairs)
    wins = sum(first > second for *_, first, second in pairs)
    assert round(100 * wins / 2565, 1) == 52.3
