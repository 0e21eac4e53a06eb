"""Multimodal RewardBench 2, text to image, in both published layouts."""

import json

import pytest

from lrt_jax.data.schema import FileRef
from lrt_jax.data.sources import SourceError, read_groups, read_source
from tests.data.sources.made import image, shown, table, touch, write


def pair(marks=(6, 3, 4), chosen="A", **more):
    responses = {
        f"response_{side}": {
            "model_name": f"model {side}",
            "response_content": [["image", f"images/{side}.jpg"]],
        }
        for side in "ab"
    }
    fields = {"id": "one", "prompt_content": [["text", "p"]], "chosen": chosen}
    return fields | {"human_annotations": list(marks), "prompt_source": "wise"} | responses | more


def check(data, root):
    (group,) = data.groups
    assert (group.group_id, group.prompt, group.split) == ("one", "p", "test")
    assert group.pairs == ((0, 1, 2, 1),)
    assert group.generators == ("model a", "model b")
    assert shown(root, data.groups) == [[b"a.jpg", b"b.jpg"]]
    assert "not for commercial use" in data.notes[0]


def test_json(tmp_path):
    touch(tmp_path, "images", "a.jpg", "b.jpg")
    write(tmp_path / "t2i.json", {"pairs": [pair()]})
    check(read_source("mmrb2", tmp_path), tmp_path)


def parquet_row(**more):
    row = {"pair_id": "one", "prompt_text": "p", "prompt_images": [], "chosen": "a"}
    row |= {"prompt_source": "wise", "prompt_metadata": "{}", "human_annotations": "[6, 3, 4]"}
    for side in "ab":
        row[f"response_{side}_text"] = ""
        row[f"response_{side}_images"] = [image(f"{side}.jpg")]
        row[f"response_{side}_model"] = f"model {side}"
    return row | more


def test_parquet(tmp_path):
    table(tmp_path / "t2i/test-00000-of-00001.parquet", [parquet_row()])
    table(tmp_path / "edit/test-00000-of-00001.parquet", [{"x": 1}])
    data = read_source("mmrb2", tmp_path)
    check(data, tmp_path)
    file = "t2i/test-00000-of-00001.parquet"
    assert data.groups[0].images[1] == FileRef.cell(file, "response_b_images", 0)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"human_annotations": [0, 1, 2]}, r"'human_annotations' is \[0.0, 1.0, 2.0\]; expected"),
        ({"human_annotations": []}, r"'human_annotations' is \[\]"),
        ({"human_annotations": [1.5]}, r"expected counts|expected marks"),
        ({"chosen": "B"}, r"field 'chosen' is 'B'; 2 prefer A and 1 prefer B"),
        ({"prompt_content": [["image", "x.jpg"]]}, r"'prompt_content' is .*; expected one text"),
        ({"response_a": {"response_content": []}}, r"pairs.*|response_a: field 'response_content'"),
    ],
)
def test_bad_records(tmp_path, changed, message):
    write(tmp_path / "t2i.json", {"pairs": [pair() | changed]})
    with pytest.raises(SourceError, match=message):
        read_groups("mmrb2", tmp_path)


def test_annotations_that_are_no_json(tmp_path):
    table(tmp_path / "t2i/test-0.parquet", [parquet_row(human_annotations="6 3 4")])
    with pytest.raises(SourceError, match="field 'human_annotations' is not JSON"):
        read_groups("mmrb2", tmp_path)


def test_without_captions(tmp_path):
    write(tmp_path / "t2i_response_only.json", json.dumps({"pairs": []}))
    with pytest.raises(SourceError, match="t2i_response_only.json has no captions"):
        read_groups("mmrb2", tmp_path)
