"""Every odd image file is decoded, or refused by name."""

import io
import subprocess
import sys

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image

from lrt_jax.data import images
from lrt_jax.data.images import ImageError, decode
from tests.data import raw_images
from tests.data.profiles import CUT, LINEAR_GRAY, SRGB, SWAPPED


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def file_of(image: Image.Image, kind="PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


# ---------------------------------------------------------------------------- decoding

RED, BLUE, WHITE = [255, 0, 0], [0, 0, 255], [255, 255, 255]


def test_exif_orientation_is_applied():
    image = Image.fromarray(np.array([[RED, BLUE]], np.uint8))  # 1 high, 2 wide
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    assert decode(file_of(image, exif=exif), "x").tolist() == [[RED], [BLUE]]


def test_alpha_is_over_white():
    rgba = np.array([[[255, 0, 0, 255], [255, 0, 0, 0]]], np.uint8)
    assert decode(file_of(Image.fromarray(rgba)), "x").tolist() == [[RED, WHITE]]
    gray = Image.fromarray(np.array([[[9, 255], [9, 0]]], np.uint8), "LA")
    assert decode(file_of(gray), "x").tolist() == [[[9, 9, 9], WHITE]]


def test_palettes_with_and_without_transparency():
    image = Image.fromarray(np.array([[RED, BLUE]], np.uint8)).convert("P", palette=1, colors=2)
    plain = decode(file_of(image), "x")
    assert sorted(plain[0].tolist()) == sorted([RED, BLUE])
    see_through = decode(file_of(image, transparency=image.getpixel((1, 0))), "x")
    assert see_through.tolist() == [[RED, WHITE]]


@pytest.mark.parametrize("mode", ["1", "L", "CMYK", "YCbCr"])
def test_other_modes_become_rgb(mode):
    kind = "JPEG" if mode in ("CMYK", "YCbCr") else "PNG"
    white = Image.new("RGB", (16, 16), "white").convert(mode)
    out = decode(file_of(white, kind), "x")
    assert out.shape == (16, 16, 3)
    assert (out >= 250).all()


def test_sixteen_bits_of_gray_are_scaled_not_clipped():
    gray = Image.fromarray(np.array([[0, 32896, 65535]], np.uint16))
    assert decode(file_of(gray), "x")[0, :, 0].tolist() == [0, 128, 255]


RAMP = np.arange(256).reshape(16, 16)


@pytest.mark.parametrize(("bits", "white_is_zero"), [(12, False), (16, False), (16, True)])
def test_gray_of_any_number_of_bits_is_the_gray_of_eight(bits, white_is_zero):
    most = 2**bits - 1
    levels = np.round(RAMP / 255 * most).astype(int)
    stored = most - levels if white_is_zero else levels
    opened, changes = images.open_rgb(raw_images.tiff(stored, bits, white_is_zero), "x")
    np.testing.assert_array_equal(np.asarray(opened), np.stack([RAMP] * 3, axis=-1))
    assert changes == (f"{bits}-bit grayscale made RGB",)


@pytest.mark.parametrize("bits", [2, 4, 8, 16])
@pytest.mark.parametrize("place", [1, 2])
def test_a_transparent_gray_is_white_and_no_gray_beside_it(bits, place):
    levels = np.array([[0, 1, 2, 2**bits - 1]]) if bits < 16 else np.array([[0, 999, 1000, 65535]])
    shown = (levels * 255 // (2**bits - 1))[0]
    shown[place] = 255
    data = raw_images.png(levels, bits, (levels[0, place],))
    assert decode(data, "x")[0].tolist() == [[gray] * 3 for gray in shown]


@pytest.mark.parametrize("profile", [None, LINEAR_GRAY])
def test_a_transparent_gray_of_sixteen_bits_is_white_whatever_the_profile(profile):
    gray = Image.fromarray(np.array([[32896, 1000]], np.uint16))
    data = file_of(gray, icc_profile=profile, transparency=1000)
    assert decode(data, "x")[0].tolist() == [[188 if profile else 128] * 3, WHITE]


def test_a_transparent_colour_is_white_or_refused_where_half_of_it_is_lost():
    colours = np.array([[[1, 2, 3], [4, 5, 6]]])
    assert decode(raw_images.png(colours, 8, (1, 2, 3)), "x").tolist() == [[WHITE, [4, 5, 6]]]
    with pytest.raises(ImageError, match=r"^a\.png: transparent colour of 16 .*8 bits a channel"):
        decode(raw_images.png(257 * colours, 16, (257, 514, 771)), "a.png")


def test_first_frame_of_an_animation():
    red, blue = (Image.new("RGB", (4, 4), tuple(c)) for c in (RED, BLUE))
    data = file_of(red, "GIF", save_all=True, append_images=[blue])
    assert decode(data, "x")[0, 0].tolist() == RED


def test_bad_files_are_named(monkeypatch):
    for kind in ("PNG", "JPEG", "WEBP"):
        whole = file_of(Image.fromarray(noise(64, 64)), kind)
        with pytest.raises(ImageError, match=r"^cut\.jpg: ") as error:
            decode(whole[: len(whole) // 2], "cut.jpg")
        assert error.value.name == "cut.jpg"
    with pytest.raises(ImageError, match=r"none\.jpg: empty file"):
        decode(b"", "none.jpg")
    with pytest.raises(ImageError, match=r"page\.jpg: not an image"):
        decode(b"<html>404</html>", "page.jpg")
    monkeypatch.setattr(images, "MAX_PIXELS", 100)
    with pytest.raises(ImageError, match=r"bomb\.png: too many pixels"):
        decode(file_of(Image.new("L", (11, 10))), "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(ImageError, match=r"bomb\.png: too many pixels"):
        decode(file_of(Image.new("L", (11, 10))), "bomb.png")


@pytest.mark.parametrize("dtype", [np.float32, np.int32, np.int16])
def test_numbers_without_bounds_are_refused_not_clipped(dtype):
    levels = Image.fromarray(np.array([[0, 1, 100]], dtype))
    with pytest.raises(ImageError, match=r"^map\.tif: pixels without bounds .*8 or 16 bits"):
        decode(file_of(levels, "TIFF"), "map.tif")


def test_no_program_is_started_for_an_image(monkeypatch):
    """Pillow draws EPS files, whatever their name, with Ghostscript."""
    started = []
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *_, **__: started.append(1))
    with pytest.raises(ImageError, match=r"^drawing\.png: not an image .none of PNG, JPEG"):
        decode(file_of(Image.new("RGB", (16, 16)), "EPS"), "drawing.png")
    assert not started


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "MPO", "AVIF"])
def test_formats_of_photographs_are_read(kind):
    data = file_of(Image.new("RGB", (32, 32), "red"), kind)
    assert np.abs(decode(data, "x").astype(int) - RED).max() <= 2


DECODE_ALL = """
import pathlib, re, sys
from lrt_jax.data.images import open_rgb

def peak():  # of this program alone; that of getrusage begins with what its parent held
    status = pathlib.Path("/proc/self/status").read_text()
    return 1024 * int(re.search(r"VmHWM:\\s+(\\d+) kB", status)[1])

before = peak()
for path in sys.argv[1:]:
    open_rgb(pathlib.Path(path).read_bytes(), path)
print(peak() - before)
"""


KINDS = {"LA": LINEAR_GRAY, "I;16": None, "RGB": SWAPPED}


def test_the_largest_images_of_every_kind_are_decoded_in_less_than_a_gigabyte(tmp_path):
    """Pixels are 4 bytes each, as they are stored and as RGB; what lies between is in parts."""
    side, parts = 4000, 48 * 2**20
    for mode, profile in KINDS.items():
        data = file_of(Image.new(mode, (side, side)), icc_profile=profile, compress_level=1)
        (tmp_path / mode).write_bytes(data)
    command = [sys.executable, "-c", DECODE_ALL, *(tmp_path / mode for mode in KINDS)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 8 * side**2 + parts
    assert 8 * images.MAX_PIXELS + parts < 0.8e9


@pytest.mark.parametrize("profile", [None, SRGB, SWAPPED, LINEAR_GRAY, CUT])
@pytest.mark.parametrize("mode", ["1", "L", "LA", "I;16", "P", "RGB", "RGBA", "CMYK"])
@pytest.mark.parametrize("size", [(41, 37), (1, 300), (300, 1)])
def test_parts_of_an_image_are_converted_as_the_whole_is(monkeypatch, mode, profile, size):
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 4), np.uint8)
    image = Image.fromarray(pixels[..., 3]) if mode == "I;16" else Image.fromarray(pixels)
    image = image if mode == image.mode else image.convert(mode)
    options = {"transparency": 7} if mode in ("P", "L") else {}
    kind = "TIFF" if mode == "CMYK" else "PNG"
    data = file_of(image, kind, icc_profile=profile, **options)
    whole, changes = images.open_rgb(data, "x")
    monkeypatch.setattr(images, "PART", 100)
    parts, same = images.open_rgb(data, "x")
    np.testing.assert_array_equal(parts, whole)
    assert same == changes


# ---------------------------------------------------------------------------- colour profiles


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_colours_are_those_that_the_profile_means(mode, kind):
    image = Image.fromarray(np.array([[RED, BLUE, WHITE]], np.uint8)).convert(mode)
    opened, changes = images.open_rgb(file_of(image, kind, icc_profile=SWAPPED), "x")
    assert np.asarray(opened).tolist() == [[[0, 255, 0], BLUE, WHITE]]
    assert "colour profile made sRGB" in changes


def test_a_gray_profile_and_transparency():
    image = Image.fromarray(np.array([[[128, 255], [128, 0]]], np.uint8), "LA")
    opened = decode(file_of(image, icc_profile=LINEAR_GRAY), "x")
    assert opened.tolist() == [[[188] * 3, WHITE]]  # sRGB's number of half the light


@pytest.mark.parametrize(
    ("mode", "profile", "said"),
    [
        ("RGB", None, ()),
        ("RGB", SRGB, ()),
        ("L", SRGB, ("grayscale made RGB",)),
        ("RGB", CUT, ("colour profile that cannot be used left out",)),
        ("RGB", LINEAR_GRAY, ("colour profile that cannot be used left out",)),
    ],
)
def test_pixels_are_not_touched_where_no_profile_says_so(mode, profile, said):
    image = Image.fromarray(noise(32, 32)).convert(mode)
    opened, changes = images.open_rgb(file_of(image, icc_profile=profile), "x")
    np.testing.assert_array_equal(opened, image.convert("RGB"))
    assert changes == said


def test_perceptual_hash_survives_resizing():
    smooth = np.asarray(Image.fromarray(noise(8, 8)).resize((200, 200), Image.Resampling.BICUBIC))
    other = np.asarray(Image.fromarray(noise(8, 8, 1)).resize((200, 200)))
    small = np.asarray(Image.fromarray(smooth).resize((90, 90)))
    reference = images.perceptual_hash(smooth)
    assert (reference ^ images.perceptual_hash(small)).bit_count() <= 6
    assert (reference ^ images.perceptual_hash(other)).bit_count() >= 16
