"""Images and records as they should not be: each is in the report, none is silently replaced."""

import io
import json
import zipfile

import numpy as np
import pytest
from PIL import Image

from lrt_jax.data.build import prepare
from lrt_jax.data.images import decode
from lrt_jax.data.sources import SourceError
from lrt_jax.data.tables import PreparedSet
from tests.bad_input.data_sets import bomb
from tests.data.own_folder import own_folder
from tests.data.test_likeness import landscape

GOOD = landscape(0)


def saved(image: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def picture(seed: int = 1) -> Image.Image:
    return Image.fromarray(landscape(seed))


def gray16() -> Image.Image:
    return Image.fromarray(np.asarray(picture().convert("L"), np.uint16) * 257)


def palette() -> bytes:
    indexed = picture().convert("P", palette=Image.Palette.ADAPTIVE)
    return saved(indexed, "PNG", transparency=0)


def turned() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    return saved(picture().crop((0, 0, 128, 64)), "JPEG", exif=exif)


def translucent() -> Image.Image:
    image = picture().convert("RGBA")
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    return image


FRAMES = {"save_all": True, "append_images": [picture(2)]}
UNUSABLE = {
    "truncated or corrupt image": saved(picture(), "JPEG")[:1500],
    "empty file": b"",
    "smaller than one patch": saved(Image.new("RGB", (1, 4000)), "PNG"),
    "too many pixels": bomb(20_000),
    "not an image": b"<!doctype html><title>404</title>",
    "no such file": None,
}
CHANGED = {
    "CMYK made RGB": saved(picture().convert("CMYK"), "JPEG"),
    "16-bit grayscale made RGB": saved(gray16(), "PNG"),
    "transparency put over white; palette made RGB": palette(),
    "transparency put over white": saved(translucent(), "PNG"),
    "turned as EXIF says": turned(),
    "first of several frames": saved(picture(), "WEBP", lossless=True, **FRAMES),
    "first of several frames; palette made RGB": saved(picture(), "GIF", **FRAMES),
    "grayscale made RGB": saved(picture().convert("L"), "JPEG"),
}


def test_each_image_that_cannot_be_used_is_named(tmp_path):
    rows = [("a good pair", GOOD, landscape(9), {})]
    rows += [(f"caption {reason}", GOOD, data, {}) for reason, data in UNUSABLE.items()]
    source = own_folder(tmp_path / "in", rows)
    with pytest.raises(ValueError, match=r"1-1\.png: truncated.*also 2-1\.png: empty file.*mend"):
        prepare("folder", source, tmp_path / "out", near_duplicates="keep")
    report = prepare(
        "folder", source, tmp_path / "out", near_duplicates="keep", on_bad_example="skip"
    )
    assert list(report.dropped_images.values()) == list(UNUSABLE)
    assert report.drop_reasons == dict.fromkeys(UNUSABLE, 1)
    assert (report.pairs, report.dropped_pairs) == (1, len(UNUSABLE))
    text = (tmp_path / "out" / "build_report.md").read_text()
    for i, reason in enumerate(UNUSABLE, start=1):
        assert f"{i}-1.png: {reason}" in text


@pytest.mark.parametrize("change", CHANGED)
def test_each_image_that_is_changed_is_named(tmp_path, change):
    source = own_folder(tmp_path / "in", [("a caption", landscape(0), CHANGED[change], {})])
    report = prepare("folder", source, tmp_path / "out")
    assert report.changed_images == {"0-1.png": change}
    prepared = PreparedSet(tmp_path / "out")
    image = prepared.image(prepared.pair(0).image_index[1])
    assert image.image == CHANGED[change]  # as delivered
    assert decode(image.image, "it").shape == (image.height, image.width, 3)
    assert f"0-1.png: {change}" in (tmp_path / "out" / "build_report.md").read_text()


def test_paths_never_leave_the_input_folder(tmp_path):
    names = ["../secret.png", str(tmp_path / "secret.png"), "link.png", "x/../../secret.png"]
    source = own_folder(tmp_path / "in", [("a caption", GOOD, landscape(1), {})])
    Image.fromarray(landscape(2)).save(tmp_path / "secret.png")
    (source / "link.png").symlink_to(tmp_path / "secret.png")
    with zipfile.ZipFile(source / "more.zip", "w") as archive:
        archive.writestr("../evil.png", saved(picture(3), "PNG"))
    lines = [
        {"caption": f"caption {i}", "images": ["0-0.png", name], "winner": 0}
        for i, name in enumerate([*names, "evil.png"])
    ]
    with (source / "pairs.jsonl").open("a") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)
    report = prepare("folder", source, tmp_path / "out", on_bad_example="skip")
    assert set(report.dropped_images.values()) == {"outside the input folder"}
    assert set(report.dropped_images) == {*names, "more.zip!../evil.png"}
    assert report.pairs == 1


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"votes": [3, -1]}, "votes"),
        ({"votes": [3, float("nan")]}, "votes"),
        ({"votes": [3, None]}, "votes"),
        ({"votes": [3]}, "votes"),
        ({}, "winner"),
    ],
)
def test_votes_that_are_none_are_named(tmp_path, fields, problem):
    rows = [("good", GOOD, landscape(1), {}), ("bad", GOOD, landscape(2), {})]
    source = own_folder(tmp_path / "in", rows)
    first, second = (source / "pairs.jsonl").read_text().splitlines()
    bad = {name: x for name, x in json.loads(second).items() if name != "winner"} | fields
    (source / "pairs.jsonl").write_text(f"{first}\n{json.dumps(bad)}\n")
    with pytest.raises(SourceError, match=rf"pairs\.jsonl, line 2: .*{problem}"):
        prepare("folder", source, tmp_path / "out")
    report = prepare("folder", source, tmp_path / "out", on_bad_example="skip")
    assert report.pairs == 1
    (line,) = report.bad_records
    assert line.startswith("pairs.jsonl, line 2")
    assert line in (tmp_path / "out" / "build_report.md").read_text()


def test_opposite_votes_for_a_pair_are_merged_and_flagged(tmp_path):
    rows = [("a caption", GOOD, landscape(1), {}), ("a caption", GOOD, landscape(1), {"winner": 1})]
    report = prepare("folder", own_folder(tmp_path / "in", rows), tmp_path / "out")
    assert (report.pairs, report.merged_pairs, report.conflicts, report.ties) == (1, 1, 1, 1)
    assert PreparedSet(tmp_path / "out").pair(0).votes == (1, 1)


def test_captions_of_another_encoding_and_far_too_long_ones(tmp_path):
    rows = [("good", GOOD, landscape(1), {}), ("long " * 2000, GOOD, landscape(2), {})]
    source = own_folder(tmp_path / "in", rows)
    line = json.dumps({"caption": "café", "images": ["0-0.png", "0-1.png"], "winner": 0})
    text = line.replace("caf\\u00e9", "café").encode("latin-1")
    with (source / "pairs.jsonl").open("ab") as file:
        file.write(text + b"\n")
    report = prepare("folder", source, tmp_path / "out", on_bad_example="skip")
    (problem,) = report.bad_records
    assert problem.startswith("pairs.jsonl, line 3: field 'caption' is no Unicode text")
    assert report.long_captions == (f"10,000 characters: {'long ' * 12}...",)
    assert report.caption_lengths["most"] == 10_000
    assert "are very long" in (tmp_path / "out" / "build_report.md").read_text()
