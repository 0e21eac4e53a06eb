"""Adapters read the published layouts, and name file, record and field of what is wrong."""

import json

import pyarrow as pa
import pytest
from pyarrow import parquet

from lrt_jax.data.schema import Group
from lrt_jax.data.sources import SOURCES, SourceError, read_groups, read_source


def write(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return path


def touch(folder, *names):
    return [str(write(folder / name, "x")) for name in names]


# ---------------------------------------------------------------------------- HPDv2


def test_hpdv2_train(tmp_path):
    a, b, c = touch(tmp_path / "train", "a.jpg", "b.jpg", "c.jpg")
    write(
        tmp_path / "train.json",
        [
            {"prompt": "p", "file_path": ["a.jpg", "b.jpg"], "human_preference": [1, 0]},
            {"prompt": "p", "image_path": ["c.jpg", "a.jpg"], "human_preference": [0, 1]},
            {"prompt": "q", "file_path": ["b.jpg", "c.jpg"], "human_preference": [0, 1]},
        ],
    )
    assert read_groups("hpdv2", tmp_path) == [
        Group("train-0", "p", (a, b, c), ((0, 1, 1, 0), (2, 0, 0, 1)), split="train"),
        Group("train-1", "q", (b, c), ((0, 1, 0, 1),), split="train"),
    ]


HPD_TEST = {
    "prompt": "p",
    "image_path": ["0.jpg", "1.jpg", "2.jpg"],
    "rank": [1.5, 1.5, 3],
    "raw_annotations": [
        {"rank": [1, 2, 3], "user_hash": "u"},
        {"rank": [2, 1, 3], "user_hash": "v"},
        {"rank": [1, 1, 2], "user_hash": "w"},
    ],
}


def test_hpdv2_test_counts_annotators(tmp_path):
    images = touch(tmp_path / "test", "0.jpg", "1.jpg", "2.jpg")
    write(tmp_path / "test.json", [HPD_TEST])
    (group,) = read_groups("hpdv2", tmp_path)
    assert group.images == tuple(images)
    assert group.pairs == ((0, 1, 1.5, 1.5), (0, 2, 3, 0), (1, 2, 3, 0))
    assert group.ranks == (1.5, 1.5, 3)
    assert group.split == "test"
    assert len(set(group.generators)) == 3


def test_hpdv2_test_without_annotations_falls_back_and_says_so(tmp_path):
    early = {k: v for k, v in HPD_TEST.items() if k != "raw_annotations"}
    write(tmp_path / "test.json", [early])
    data = read_source("hpdv2", tmp_path)
    assert data.groups[0].pairs == ((0, 1, 0.5, 0.5), (0, 2, 1, 0), (1, 2, 1, 0))
    assert "no raw_annotations" in data.notes[0]


# ---------------------------------------------------------------------------- ImageReward


def image_record(prompt_id, name, rank):
    return {
        "image_path": f"images/train/train_1/{name}",
        "prompt_id": prompt_id,
        "prompt": f"caption of {prompt_id}",
        "classification": "People",
        "image_amount_in_total": 2,
        "rank": rank,
        "overall_rating": 5,
        "image_text_alignment_rating": 5,
        "fidelity_rating": 5,
    }


RECORDS = [
    image_record("7-1", "a.webp", 2),
    image_record("8-1", "c.webp", 1),
    image_record("7-1", "b.webp", 1),
    image_record("8-1", "d.webp", 1),
    image_record("9-1", "e.webp", 1),
]


def check_image_records(data, names):
    first, second = data.groups
    assert (first.group_id, first.prompt, first.split) == ("7-1", "caption of 7-1", "train")
    assert first.images == (names[0], names[1])
    assert first.pairs == ((0, 1, 0, 1),)
    assert first.ranks == (2, 1)
    assert second.images == (names[2], names[3])
    assert second.pairs == ((0, 1, 0.5, 0.5),)
    assert "1 prompts have a single image" in data.notes[0]


def test_imagereward_json_beside_its_images(tmp_path):
    folder = tmp_path / "images" / "train" / "train_1"
    names = touch(folder, "a.webp", "b.webp", "c.webp", "d.webp")
    write(folder / "train_1.json", RECORDS)
    check_image_records(read_source("imagereward", tmp_path), names)


def test_imagereward_parquet(tmp_path):
    names = touch(tmp_path / "images/train/train_1", "a.webp", "b.webp", "c.webp", "d.webp")
    parquet.write_table(pa.Table.from_pylist(RECORDS), tmp_path / "metadata-train.parquet")
    check_image_records(read_source("imagereward", tmp_path), names)


def test_imagereward_test_json(tmp_path):
    a, b = touch(tmp_path / "part-1/images/0040", "a.webp", "b.webp")
    names = ["part-1/images/0040/a.webp", "part-1/images/0040/b.webp"]
    record = {"id": "5-40", "prompt": "p", "generations": names, "ranking": [2, 1]}
    write(tmp_path / "test.json", [record])
    assert read_groups("imagereward", tmp_path) == [
        Group("5-40", "p", (a, b), ((0, 1, 0, 1),), ranks=(2, 1), split="test")
    ]


def pair_line(first, second, ranks=(1, 2), **more):
    fields = {"group_id": "g", "prompt": "p", "image_0": first, "image_1": second}
    fields |= {"rank_0": ranks[0], "rank_1": ranks[1]} | more
    return json.dumps(fields, ensure_ascii=False) + "\n"


def test_imagereward_pairs_are_preferred(tmp_path):
    a, b, c = touch(tmp_path / "images", "a", "b", "c")
    write(tmp_path / "test.json", [])
    lines = [
        pair_line("b", "a", prompt="p\u2028"),
        " \n",
        pair_line("c", "b", (1, 1), prompt="p\u2028"),
    ]
    write(tmp_path / "pairs.jsonl", "".join(lines))
    data = read_source("imagereward", tmp_path)
    assert data.layout == "pairs.jsonl"
    assert data.groups == [
        Group("g", "p\u2028", (b, a, c), ((0, 1, 1, 0), (2, 0, 0.5, 0.5)), ranks=(1, 2, 1))
    ]


# ---------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("source", "name", "content", "message"),
    [
        ("hpdv2", "test.json", [HPD_TEST | {"rank": [1, 2]}], r"record 0: field 'rank' has 2"),
        ("hpdv2", "test.json", [{"image_path": ["a", "b"]}], r"record 0: field 'rank' is missing"),
        (
            "hpdv2",
            "test.json",
            [HPD_TEST, HPD_TEST | {"raw_annotations": [{"rank": [1, 2, "3"]}]}],
            r"record 1, raw_annotations\[0\]: field 'rank'.*list of int or float",
        ),
        (
            "hpdv2",
            "train.json",
            [{"prompt": "p", "file_path": ["a", "b"], "human_preference": [1, 1]}],
            r"train\.json, record 0: field 'human_preference' is \[1\.0, 1\.0\]",
        ),
        ("hpdv2", "train.json", [{"prompt": 3}], r"field 'prompt' is 3; expected str;"),
        ("hpdv2", "train.json", {"a": 1}, r"train\.json: holds a dict, expected a list"),
        ("hpdv2", "train.json", "[{", r"train\.json: not JSON"),
        ("hpdv2", "other.json", [], r"neither train\.json nor test\.json"),
        ("imagereward", "pairs.jsonl", '{"group_id": "g"}', r"line 1: field 'image_0' is missing"),
        (
            "imagereward",
            "pairs.jsonl",
            pair_line("a", "b") + pair_line("a", "c", (2, 3)),
            r"line 2: field 'rank_0' is 2; a had rank 1 above",
        ),
        (
            "imagereward",
            "pairs.jsonl",
            pair_line("a", "b") + pair_line("a", "c", prompt="q"),
            r"line 2: field 'prompt' differs",
        ),
        (
            "imagereward",
            "pairs.jsonl",
            pair_line("a", "b", (1, float("nan"))),
            r"line 1: field 'rank_1' is nan; expected a finite number",
        ),
        ("imagereward", "test.json", [], r"holds no records"),
        ("imagereward", "x.txt", "", r"zips unpacked"),
        ("imagereward", "metadata-train.parquet", "x", r"not a readable parquet file"),
    ],
)
def test_errors_name_the_place_and_the_remedy(tmp_path, source, name, content, message):
    write(tmp_path / name, content)
    with pytest.raises(SourceError, match=message):
        read_groups(source, tmp_path)


def test_unknown_sources_and_folders(tmp_path):
    with pytest.raises(SourceError, match="did you mean 'imagereward'"):
        read_groups("ImageRewards", tmp_path)
    with pytest.raises(SourceError, match="no such folder"):
        read_groups("hpdv2", tmp_path / "nowhere")
    assert set(SOURCES) >= {"hpdv2", "imagereward"}


# ---------------------------------------------------------------------------- real data


def test_hpd_gallery(real_data):
    groups = read_groups("hpdv2", real_data / "hpd_gallery")
    pairs = [pair for group in groups for pair in group.pairs]
    assert len(groups) == 75
    assert len({image for group in groups for image in group.images}) == 675
    assert len(pairs) == 2700
    assert sum(first == second for *_, first, second in pairs) == 135
    assert all(first + second == 10 for *_, first, second in pairs)


def test_imagereward_sample(real_data):
    (group,) = read_groups("imagereward", real_data / "imagereward_test")
    assert (len(group.images), len(group.pairs)) == (4, 6)
