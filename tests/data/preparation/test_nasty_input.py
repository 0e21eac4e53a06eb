"""Images and records as they should not be: each is in the report, none is silently replaced."""

import io
import json
import os
import re
import zipfile
import zlib

import numpy as np
import pytest
from absl.flags import FlagValues
from PIL import Image

from lrt_jax import prepare as command
from lrt_jax.data.dataset.prepared_set import PreparedSet
from lrt_jax.data.images import decode
from lrt_jax.data.preparation.prepare import prepare
from lrt_jax.data.sources import SourceError
from tests.bad_input.data_sets import bomb
from tests.data.own_folder import own_folder
from tests.data.preparation.test_near_duplicates import landscape
from tests.data.profiles import CUT, SWAPPED

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


def deep() -> bytes:
    """A PNG of 16 bits a channel, which Pillow reads and cannot write."""

    def chunk(name: bytes, content: bytes) -> bytes:
        body = name + content
        return len(content).to_bytes(4, "big") + body + zlib.crc32(body).to_bytes(4, "big")

    pixels = landscape(1).astype(">u2") * 257
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)
    size = (128).to_bytes(4, "big") * 2 + bytes([16, 2, 0, 0, 0])
    parts = chunk(b"IHDR", size), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


FRAMES = {"save_all": True, "append_images": [picture(2)]}
UNUSABLE = {
    "truncated or corrupt image": saved(picture(), "JPEG")[:1500],
    "empty file": b"",
    "smaller than one patch": saved(Image.new("RGB", (1, 4000)), "PNG"),
    "too many pixels": bomb(20_000),
    "not an image": b"<!doctype html><title>404</title>",
    "pixels without bounds": saved(picture().convert("F"), "TIFF"),
    "no such file": None,
}
CHANGED = {
    "CMYK made RGB": saved(picture().convert("CMYK"), "JPEG"),
    "16-bit grayscale made RGB": saved(gray16(), "PNG"),
    "transparency put over white; palette made RGB": palette(),
    "transparency put over white": saved(translucent(), "PNG"),
    "turned as EXIF says": turned(),
    "16 bits a channel made 8": deep(),
    "first of several frames": saved(picture(), "WEBP", lossless=True, **FRAMES),
    "first of several frames; palette made RGB": saved(picture(), "GIF", **FRAMES),
    "grayscale made RGB": saved(picture().convert("L"), "JPEG"),
    "colour profile made sRGB": saved(picture(), "WEBP", icc_profile=SWAPPED),
    "colour profile that cannot be used left out": saved(picture(), "JPEG", icc_profile=CUT),
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


def test_images_of_another_folder_that_is_named(tmp_path):
    source = own_folder(tmp_path / "in", [("a caption", GOOD, landscape(1), {})])
    own_folder(tmp_path / "big", [("not read", landscape(2), landscape(3), {})])
    lines = [
        {"caption": f"the caption {i}", "images": ["0-0.png", name], "winner": 0}
        for i, name in enumerate([str(tmp_path / "big" / "0-1.png"), "/etc/hostname"])
    ]
    (source / "pairs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tmp_path / "big" / "0-0.png").unlink()
    (source / "0-1.png").unlink()
    out = tmp_path / "out"
    flags = [f"--input={source}", f"--output={out}", f"--image_root={tmp_path / 'big'}"]
    values = FlagValues()
    command.define_flags(values)
    values(["prepare", "--source=folder", "--on_bad_example=skip", *flags])
    command.main(values)
    prepared = PreparedSet(out)
    assert prepared.num_pairs == 1
    images = [prepared.image(row).image for row in prepared.pair(0).image_index]
    assert images == [(source / "0-0.png").read_bytes(), (tmp_path / "big/0-1.png").read_bytes()]
    command.main(values)  # found again


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


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"split": "a/b"}, "field 'split' is 'a/b'; use letters"),
        ({"split": "../../evil"}, "field 'split' is"),
        ({"split": "all"}, "not 'all'"),
        ({"split": "Train Set"}, "field 'split' is 'Train Set'"),
        ({"group_id": "a\ud800b"}, "no Unicode text"),
        ({"generators": ["a\ud800", "b"]}, "no Unicode text"),
        ({"winner": None, "votes": [10**30, 3]}, "votes"),
    ],
)
def test_fields_that_no_table_can_hold_are_named(tmp_path, fields, problem):
    rows = [("good", GOOD, landscape(1), {}), ("bad", GOOD, landscape(2), fields)]
    source = own_folder(tmp_path / "in", rows)
    text = (source / "pairs.jsonl").read_text().replace('"winner": null, ', "")
    (source / "pairs.jsonl").write_text(text)
    with pytest.raises(SourceError, match=re.escape(problem)):
        prepare("folder", source, tmp_path / "out")
    report = prepare("folder", source, tmp_path / "out", on_bad_example="skip")
    assert (report.pairs, len(report.bad_records)) == (1, 1)


def test_file_names_of_another_encoding_are_named(tmp_path):
    rows = [("good", GOOD, landscape(1), {}), ("bad", GOOD, landscape(2), {})]
    source = own_folder(tmp_path / "in", rows)
    os.rename(source / "1-1.png", os.fsencode(source) + b"/lat\xe9.png")
    data = (source / "pairs.jsonl").read_bytes().replace(b"1-1.png", b"lat\xe9.png")
    (source / "pairs.jsonl").write_bytes(data)
    with pytest.raises(SourceError, match="field 'images' is .*rename the file"):
        prepare("folder", source, tmp_path / "out")
    report = prepare("folder", source, tmp_path / "out", on_bad_example="skip")
    assert (report.pairs, len(report.bad_records)) == (1, 1)


def test_captions_of_the_same_words_are_judged_together(tmp_path):
    rows = [
        ("a cat on a mat", GOOD, landscape(1), {}),
        ("A cat, on a mat.", GOOD, landscape(1), {"winner": 1}),
    ]
    report = prepare("folder", own_folder(tmp_path / "in", rows), tmp_path / "out")
    assert (report.pairs, report.merged_pairs, report.conflicts) == (1, 1, 1)


def test_votes_are_as_they_are_stored(tmp_path):
    rows = [("a caption", GOOD, landscape(1), {"votes": [0.1, 0.7], "winner": None})]
    source = own_folder(tmp_path / "in", rows)
    text = (source / "pairs.jsonl").read_text().replace('"winner": null', '"split": "train"')
    (source / "pairs.jsonl").write_text(text.replace("0.1, 0.7", "16777216, 3"))
    prepare("folder", source, tmp_path / "out")
    assert PreparedSet(tmp_path / "out").pair(0).votes == (16777216, 3)


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
