"""HPDv3, as published: the winner first, images in a split tar."""

import pytest

from lrt_jax.data.schema import FileRef
from lrt_jax.data.sources import SourceError, read_groups, read_source
from tests.data.sources.made import shown, split_in, tar_bytes, write


def pair(first, second, prompt="p", choice=(12, 7), models=("flux", "infinity"), **more):
    fields = {"prompt": prompt, "path1": f"images/{first}.jpg", "path2": f"images/{second}.jpg"}
    fields |= {"confidence": 0.999, "choice_dist": choice and list(choice)}
    return fields | {"model1": models[0], "model2": models[1]} | more


def images(root, names="abcdef"):
    members = {f"images/{name}.jpg": name.encode() * 3000 for name in names}
    split_in(tar_bytes(members, "w:gz"), root / "images.tar.gz", 2)


def test_splits_votes_and_images(tmp_path):
    images(tmp_path)
    train = [
        pair("a", "b"),
        pair("c", "a", choice=None, models=("mj", "flux")),
        pair("d", "e", "q"),
    ]
    write(tmp_path / "train.json", train)
    write(tmp_path / "test.json", [pair("e", "f", choice=(9, 9))])
    data = read_source("hpdv3", tmp_path)
    first, second, test = data.groups
    assert (first.group_id, first.prompt, first.split) == ("train-0", "p", "train")
    assert first.pairs == ((0, 1, 12, 7), (2, 0, 1, 0))
    assert first.generators == ("flux", "infinity", "mj")
    assert first.images[0] == FileRef("images.tar.gz.00", "images/a.jpg")
    assert (second.group_id, test.group_id, test.split) == ("train-1", "test-0", "test")
    assert test.pairs == ((0, 1, 9, 9),)
    assert [[x[:1] for x in row] for row in shown(tmp_path, data.groups)] == [
        [b"a", b"b", b"c"],
        [b"d", b"e"],
        [b"e", b"f"],
    ]
    assert data.layout == "train.json + test.json"
    assert "always the preferred one" in data.notes[0] and "HPDv2" in data.notes[1]
    assert data.notes[2] == "1 pairs have no choice_dist: one vote for path1 each"


def test_all_json_alone(tmp_path):
    images(tmp_path)
    write(tmp_path / "all.json", [pair("a", "b", models=(None, "x"))])
    (group,) = read_groups("hpdv3", tmp_path)
    assert (group.group_id, group.split, group.generators) == ("all-0", None, None)
    write(tmp_path / "test.json", [pair("a", "b")])
    assert read_source("hpdv3", tmp_path).layout == "test.json"


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"choice_dist": [7, 12]}, r"record 1: field 'choice_dist' is 7 to 12; path1 is the pref"),
        ({"choice_dist": [7, -1]}, r"field 'choice_dist' is \[7.0, -1.0\]; expected counts"),
        ({"choice_dist": [7.5, 1]}, r"expected counts: whole numbers"),
        ({"choice_dist": [7]}, r"has 1 entries; expected 2"),
        ({"path2": None}, r"field 'path2' is None; expected str"),
        ({"prompt": "\ud800"}, r"field 'prompt' is no Unicode text"),
    ],
)
def test_bad_records(tmp_path, changed, message):
    write(tmp_path / "train.json", [pair("a", "b"), pair("a", "b") | changed])
    with pytest.raises(SourceError, match=message):
        read_groups("hpdv3", tmp_path)


def test_a_folder_of_something_else(tmp_path):
    with pytest.raises(SourceError, match="give the folder of HPDv3"):
        read_groups("hpdv3", tmp_path)
