"""ImageRewardDB, as published, and its test.json."""

import json
import shutil

import pytest

from lrt_jax.data.schema import FileRef, Group
from lrt_jax.data.sources import SourceError, read_groups, read_source
from tests.data.sources.made import shown, table, touch, write, zipped


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
NAMES = ("a.webp", "b.webp", "c.webp", "d.webp")


def check_image_records(data, root):
    first, second = data.groups
    assert (first.group_id, first.prompt, first.split) == ("7-1", "caption of 7-1", "train")
    assert first.pairs == ((0, 1, 0, 1),)
    assert first.ranks == (2, 1)
    assert second.pairs == ((0, 1, 0.5, 0.5),)
    assert shown(root, data.groups) == [[b"a.webp", b"b.webp"], [b"c.webp", b"d.webp"]]
    assert data.notes == ("1 prompts have a single image and no pair: left out",)


def test_json_beside_its_images(tmp_path):
    touch(tmp_path, "images/train/train_1", *NAMES)
    write(tmp_path / "images/train/train_1/train_1.json", RECORDS)
    check_image_records(read_source("imagereward", tmp_path), tmp_path)


def test_zips_as_they_are(tmp_path):
    members = {name: name for name in NAMES} | {"train_1.json": json.dumps(RECORDS)}
    zipped(tmp_path / "images/train/train_1.zip", **members)
    check_image_records(read_source("imagereward", tmp_path), tmp_path)


def test_parquet_with_folders_and_with_zips(tmp_path):
    touch(tmp_path, "images/train/train_1", *NAMES[:2])
    zipped(tmp_path / "images/train/train_1.zip", **{name: name for name in NAMES[2:]})
    table(tmp_path / "metadata-train.parquet", RECORDS)
    check_image_records(read_source("imagereward", tmp_path), tmp_path)


def test_images_are_known_by_their_names_alone(tmp_path):
    zipped(tmp_path / "images/other.zip", **{name: name for name in NAMES})
    table(tmp_path / "metadata-train.parquet", RECORDS)
    check_image_records(read_source("imagereward", tmp_path), tmp_path)


def test_a_column_that_nobody_knows_is_named(tmp_path):
    table(tmp_path / "metadata-train.parquet", [record | {"mood": 1} for record in RECORDS])
    assert "columns that are not read: mood" in read_source("imagereward", tmp_path).notes


def test_test_json(tmp_path):
    a, b = touch(tmp_path, "part-1/images/0040", "a.webp", "b.webp")
    record = {"id": "5-40", "prompt": "p", "generations": [a.file, b.file], "ranking": [2, 1]}
    write(tmp_path / "test.json", [record])
    assert read_groups("imagereward", tmp_path) == [
        Group("5-40", "p", (a, b), ((0, 1, 0, 1),), ranks=(2, 1), split="test")
    ]


def pair_line(first, second, ranks=(1, 2), **more):
    fields = {"group_id": "g", "prompt": "p", "image_0": first, "image_1": second}
    fields |= {"rank_0": ranks[0], "rank_1": ranks[1]} | more
    return json.dumps(fields, ensure_ascii=False) + "\n"


def test_pairs_are_preferred(tmp_path):
    a, b, c = touch(tmp_path, "images", "a", "b", "c")
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


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("pairs.jsonl", '{"group_id": "g"}', r"line 1: field 'image_0' is missing"),
        (
            "pairs.jsonl",
            pair_line("a", "b") + pair_line("a", "c", (2, 3)),
            r"line 2: field 'rank_0' is 2; a had rank 1 above",
        ),
        (
            "pairs.jsonl",
            pair_line("a", "b") + pair_line("a", "c", prompt="q"),
            r"line 2: field 'prompt' differs",
        ),
        (
            "pairs.jsonl",
            pair_line("a", "b", (1, float("nan"))),
            r"line 1: field 'rank_1' is nan; expected a finite number",
        ),
        ("test.json", [], r"holds no records"),
        ("x.txt", "", r"give the folder that holds them"),
        ("metadata-train.parquet", "x", r"not a readable parquet file"),
    ],
)
def test_errors_name_the_place_and_the_remedy(tmp_path, name, content, message):
    write(tmp_path / name, content)
    with pytest.raises(SourceError, match=message):
        read_groups("imagereward", tmp_path)


def test_parquet_that_lacks_a_column(tmp_path):
    rows = [{k: v for k, v in r.items() if k not in ("rank", "prompt")} for r in RECORDS]
    table(tmp_path / "metadata-train.parquet", rows)
    with pytest.raises(SourceError, match=r"lacks the columns prompt, rank; it has image_path, "):
        read_groups("imagereward", tmp_path)


def test_real_sample(real_data):
    (group,) = read_groups("imagereward", real_data / "imagereward_test")
    assert (len(group.images), len(group.pairs)) == (4, 6)


def test_real_test_json(real_data, tmp_path):
    shutil.copy(real_data / "imagereward_test" / "test.json", tmp_path)
    groups = read_groups("imagereward", tmp_path)
    pairs = [(a, b) for group in groups for *_, a, b in group.pairs]
    strict = [(a, b) for a, b in pairs if a != b]
    assert (len(groups), len({group.prompt for group in groups})) == (466, 463)
    assert sum(len(group.images) for group in groups) == 2720
    assert (len(strict), len(pairs) - len(strict)) == (6399, 831)
    assert sum(a > b for a, b in strict) == 3777
    assert all(isinstance(image, FileRef) for group in groups for image in group.images)
