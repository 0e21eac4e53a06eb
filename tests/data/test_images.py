"""Patches equal transformers' to the bit; every odd image file is decoded or refused by name."""

import dataclasses
import io
import json
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import EpsImagePlugin, Image
from transformers import Qwen2VLImageProcessorPil

from lrt_jax.data import images
from lrt_jax.data.images import ImageError, ImagePolicy, decode, read_image_policy
from lrt_jax.models.qwen2_5_vl.model import normalise
from lrt_jax.models.qwen2_5_vl.positions import window_order
from tests.data import raw_images
from tests.data.profiles import CUT, LINEAR_GRAY, SRGB, SWAPPED
from tests.data.small_encoder import VISION

HUB = {
    "min_pixels": 3136,
    "max_pixels": 12845056,
    "patch_size": 14,
    "temporal_patch_size": 2,
    "merge_size": 2,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "image_processor_type": "Qwen2VLImageProcessor",
    "processor_class": "Qwen2_5_VLProcessor",
}


def write_policy(folder, max_patches=256, name="preprocessor_config.json", config=HUB):
    (folder / name).write_text(json.dumps(config))
    return read_image_policy(folder, max_patches)


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def file_of(image: Image.Image, kind="PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


SIZES = [
    (224, 224),
    (225, 211),
    (57, 331),  # odd, wide
    (300, 41),
    (3, 5),  # enlarged to min_pixels
    (1, 1),
    (13, 14),  # rounds to no pixels at all
    (700, 900),  # reduced to max_pixels
    (1000, 1000),
    (28, 1500),
]


@pytest.fixture(scope="module")
def hub_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hub")
    write_policy(folder)
    return folder


@given(st.integers(1, 400), st.integers(1, 400))
@settings(max_examples=40, deadline=None)
def test_patches_of_any_size_equal_transformers(hub_folder, height, width):
    assume(max(height, width) <= 200 * min(height, width))
    assert_equal_to_transformers(hub_folder, height, width)


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_patches_equal_transformers(hub_folder, height, width):
    assert_equal_to_transformers(hub_folder, height, width)


def assert_equal_to_transformers(folder, height, width):
    policy = read_image_policy(folder, 256)
    image = noise(height, width)
    patches, grid = images.to_patches(image, policy, VISION)

    hf = Qwen2VLImageProcessorPil.from_pretrained(folder, max_pixels=policy.max_pixels)
    expected = hf(Image.fromarray(image), return_tensors="np")

    assert patches.dtype == np.uint8
    assert [1, *grid] == expected["image_grid_thw"][0].tolist()
    frame = np.asarray(normalise(patches)).reshape(-1, 3, 1, 14 * 14)  # as the device does it
    twice = np.repeat(frame, 2, axis=2).reshape(len(patches), -1)
    np.testing.assert_allclose(twice, expected["pixel_values"], rtol=0, atol=1e-6)


def test_smart_resize_equals_transformers_over_many_sizes():
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

    rng = np.random.default_rng(0)
    for height, width in rng.integers(1, 3000, (2000, 2)).tolist():
        if max(height, width) > 200 * min(height, width):
            continue
        for bounds in ((3136, 200704), (3136, 12845056), (50176, 50176)):
            assert images.smart_resize(height, width, 28, *bounds) == smart_resize(
                height, width, 28, *bounds
            )


def test_long_images_raise_by_name(tmp_path):
    policy = write_policy(tmp_path)
    with pytest.raises(ImageError, match=r"rope\.png.*aspect ratio over 200"):
        images.to_patches(noise(2, 401), policy, VISION, "rope.png")
    with pytest.raises(ValueError, match="over 200"):
        images.smart_resize(2, 401, 28, 3136, 200704)


@pytest.mark.parametrize(("height", "width"), [(10, 1900), (1900, 10), (3, 5), (9, 10)])
def test_the_patch_budget_holds_where_the_processor_exceeds_its_bound(height, width):
    policy = ImagePolicy(64 * 196, 64 * 196, 64)
    size = images.smart_resize(height, width, 28, policy.min_pixels, policy.max_pixels)
    patches, grid = images.to_patches(noise(height, width), policy, VISION)
    assert size[0] * size[1] > policy.max_pixels
    assert len(patches) == grid[0] * grid[1] <= 64
    assert min(grid) * 14 == min(size)


# ---------------------------------------------------------------------------- policy


def test_policy_is_the_same_from_every_layout(tmp_path):
    def read(name, config):
        folder = tmp_path / name.replace("/", "-")
        folder.mkdir()
        return write_policy(folder, 1024, name.split("/")[-1], config)

    sizes = {k: v for k, v in HUB.items() if k not in ("min_pixels", "max_pixels")}
    sizes["size"] = {"shortest_edge": 3136, "longest_edge": 12845056}
    hub = read("a/preprocessor_config.json", HUB)
    assert hub == read("b/preprocessor_config.json", sizes)
    assert hub == read("c/processor_config.json", {"image_processor": sizes})
    assert hub == ImagePolicy(3136, 1024 * 196, 1024)


def test_policy_keeps_the_checkpoints_bound_where_it_is_lower(tmp_path):
    assert write_policy(tmp_path, 1024, config=HUB | {"max_pixels": 50176}).max_pixels == 50176


def test_policy_refuses_what_it_cannot_do(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"preprocessor_config\.json"):
        read_image_policy(tmp_path, 256)
    with pytest.raises(ValueError, match="allow 16 patches"):
        write_policy(tmp_path, 8)
    with pytest.raises(ValueError, match="do_normalize"):
        write_policy(tmp_path, config=HUB | {"do_normalize": False})
    with pytest.raises(ValueError, match="image_mean"):
        write_policy(tmp_path, config=HUB | {"image_mean": [0.5, 0.5, 0.5]})
    for sizes in ({"max_pixels": -50176}, {"min_pixels": {}}, {"max_pixels": 1}):
        with pytest.raises(ValueError, match=r"processor allows images of .* pixels; take the"):
            write_policy(tmp_path, config=HUB | sizes)


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


# ---------------------------------------------------------------------------- window order


def test_pairs_are_padded_in_window_order(tmp_path):
    policy = write_policy(tmp_path)
    first, second = noise(200, 130, 1), noise(90, 260, 2)
    own = dataclasses.replace(policy, one_grid=False)
    pair, grids = images.encode_pair(first, second, own, VISION)
    assert pair.patches.shape == (2, 256, 588)
    for i, image in enumerate((first, second)):
        patches, grid = images.to_patches(image, policy, VISION)
        order, n = window_order(grid, VISION), len(patches)
        assert grids[i] == grid
        np.testing.assert_array_equal(pair.patches[i, :n], patches[order.patches])
        np.testing.assert_array_equal(pair.coords[i, :n], order.coords)
        np.testing.assert_array_equal(pair.window[i, :n], order.window)
        assert (pair.window[i, n:] == -1).all()
        assert not pair.patches[i, n:].any()


@given(sizes=st.tuples(*[st.integers(28, 900)] * 4))
@settings(deadline=None)
def test_one_grid_for_a_pair_tells_nothing_of_either_size(sizes):
    first, second = sizes[:2], sizes[2:]
    assume(max(sizes) < 60 * min(sizes))
    policy = ImagePolicy(3136, 256 * 196, 256)
    grid, same = images.pair_grids(first, second, policy, VISION)
    assert grid == same == images.pair_grids(second, first, policy, VISION)[0]
    assert grid[0] * grid[1] <= 256
    own = dataclasses.replace(policy, one_grid=False)
    alike = images.pair_grids(first, first, policy, VISION)
    assert alike == images.pair_grids(first, first, own, VISION)
    assert images.pair_grids(first, second, own, VISION)[1] == images.encoded_size(
        *second, policy, VISION
    )


def test_both_images_of_a_pair_get_one_grid(tmp_path):
    policy = write_policy(tmp_path)
    small, large = noise(112, 112, 1), noise(448, 448, 2)
    pair, grids = images.encode_pair(small, large, policy, VISION)
    assert grids == ((16, 16), (16, 16))  # of 224 pixels, between the two
    swapped, _ = images.encode_pair(large, small, policy, VISION)
    np.testing.assert_array_equal(pair.patches, swapped.patches[::-1])
    np.testing.assert_array_equal(pair.window[0], pair.window[1])


@given(size=st.tuples(st.integers(28, 900), st.integers(28, 900)))
@settings(deadline=None, max_examples=60)
def test_images_of_one_size_have_no_bars(size):
    """They are stretched by the rounding of the processor, as everywhere."""
    assume(max(size) < 60 * min(size))
    policy = ImagePolicy(3136, 256 * 196, 256)
    grid, _ = images.pair_grids(size, size, policy, VISION)
    assert not images.is_letterboxed(*size, grid, policy, VISION)


def test_images_of_other_aspects_keep_theirs_between_bars(tmp_path):
    policy = write_policy(tmp_path, 1024)
    wide, high = noise(576, 1024, 1), noise(1024, 576, 2)
    pair, grids = images.encode_pair(wide, high, policy, VISION)
    assert grids == ((30, 30), (30, 30))
    side = 30 * 14
    inner = round(side * 576 / 1024)
    shown = np.full((side, side, 3), images.NEUTRAL, np.uint8)
    small = Image.fromarray(wide).resize((side, inner), Image.Resampling.BICUBIC)
    shown[(side - inner) // 2 : (side - inner) // 2 + inner] = small
    patches, _ = images.to_patches(wide, policy, VISION, grid=grids[0])
    np.testing.assert_array_equal(patches, images.patchify(shown, VISION))
    swapped, _ = images.encode_pair(high, wide, policy, VISION)
    np.testing.assert_array_equal(pair.patches, swapped.patches[::-1])


@pytest.mark.parametrize(("width", "bars"), [(112, False), (139, False), (150, True), (80, True)])
def test_what_rounding_does_needs_no_bars(tmp_path, width, bars):
    """Sides of 3.5 to 4.5 tokens round to 4, and so do aspects of up to 4.5 by 3.5."""
    policy = write_policy(tmp_path)
    assert images.is_letterboxed(112, width, (8, 8), policy, VISION) == bars
    image = noise(112, width)
    plain = Image.fromarray(image).resize((112, 112), Image.Resampling.BICUBIC)
    patches, _ = images.to_patches(image, policy, VISION, grid=(8, 8))
    same = np.array_equal(patches, images.patchify(np.asarray(plain), VISION))
    assert same == (not bars)


def test_the_longest_image_is_shown_between_bars_as_a_line(tmp_path):
    policy = write_policy(tmp_path)
    patches, _ = images.to_patches(np.zeros((14, 2800, 3), np.uint8), policy, VISION, grid=(4, 4))
    assert (patches == 0).sum() == 56 * 3  # one row of 56 pixels


def test_a_budget_that_is_no_multiple_of_a_window_is_refused(tmp_path):
    with pytest.raises(ValueError, match="max_patches=100"):
        images.encode_images([noise(20, 20)], write_policy(tmp_path, 100), VISION)


def test_perceptual_hash_survives_resizing():
    smooth = np.asarray(Image.fromarray(noise(8, 8)).resize((200, 200), Image.Resampling.BICUBIC))
    other = np.asarray(Image.fromarray(noise(8, 8, 1)).resize((200, 200)))
    small = np.asarray(Image.fromarray(smooth).resize((90, 90)))
    reference = images.perceptual_hash(smooth)
    assert (reference ^ images.perceptual_hash(small)).bit_count() <= 6
    assert (reference ^ images.perceptual_hash(other)).bit_count() >= 16


def test_a_pair_of_the_longest_images_has_a_grid():
    """The mean of two ratios of 200 may come out a hair over it."""
    policy = images.ImagePolicy(28 * 28, 1024 * 196, 1024)
    one, other = images.pair_grids((2800, 14), (3000, 15), policy, VISION)
    assert one == other
