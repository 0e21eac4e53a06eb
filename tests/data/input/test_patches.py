"""Patches equal transformers' to the bit, and both images of a pair are cut alike."""

import dataclasses
import json

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers import Qwen2VLImageProcessorPil

from lrt_jax.data.images import ImageError
from lrt_jax.data.input import patches as patching
from lrt_jax.data.input.patches import ImagePolicy, read_image_policy
from lrt_jax.models.qwen2_5_vl.model import normalise
from lrt_jax.models.qwen2_5_vl.positions import window_order
from lrt_jax.models.qwen2_5_vl.processor import smart_resize
from tests.data.small_encoder import VISION
from tests.data.test_images import noise

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
    return read_image_policy(folder, VISION, max_patches)


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
    policy = read_image_policy(folder, VISION, 256)
    image = noise(height, width)
    patches, grid = patching.to_patches(image, policy, VISION)

    hf = Qwen2VLImageProcessorPil.from_pretrained(folder, max_pixels=policy.max_pixels)
    expected = hf(Image.fromarray(image), return_tensors="np")

    assert patches.dtype == np.uint8
    assert [1, *grid] == expected["image_grid_thw"][0].tolist()
    frame = np.asarray(normalise(jnp.asarray(patches), VISION)).reshape(
        -1, 3, 1, 14 * 14
    )  # as the device does it
    twice = np.repeat(frame, 2, axis=2).reshape(len(patches), -1)
    np.testing.assert_allclose(twice, expected["pixel_values"], rtol=0, atol=1e-6)


def test_smart_resize_equals_transformers_over_many_sizes():
    from transformers.models.qwen2_vl import image_processing_pil_qwen2_vl as theirs

    rng = np.random.default_rng(0)
    for height, width in rng.integers(1, 3000, (2000, 2)).tolist():
        if max(height, width) > 200 * min(height, width):
            continue
        for bounds in ((3136, 200704), (3136, 12845056), (50176, 50176)):
            expected = theirs.smart_resize(height, width, 28, *bounds)
            assert smart_resize(height, width, 28, *bounds) == expected


def test_long_images_raise_by_name(tmp_path):
    policy = write_policy(tmp_path)
    with pytest.raises(ImageError, match=r"rope\.png.*aspect ratio over 200"):
        patching.to_patches(noise(2, 401), policy, VISION, "rope.png")
    with pytest.raises(ValueError, match="over 200"):
        smart_resize(2, 401, 28, 3136, 200704)


@pytest.mark.parametrize(("height", "width"), [(10, 1900), (1900, 10), (3, 5), (9, 10)])
def test_the_patch_budget_holds_where_the_processor_exceeds_its_bound(height, width):
    policy = ImagePolicy(64 * 196, 64 * 196, 64)
    size = smart_resize(height, width, 28, policy.min_pixels, policy.max_pixels)
    patches, grid = patching.to_patches(noise(height, width), policy, VISION)
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
        read_image_policy(tmp_path, VISION, 256)
    with pytest.raises(ValueError, match="allow 16 patches"):
        write_policy(tmp_path, 8)
    with pytest.raises(ValueError, match="do_normalize"):
        write_policy(tmp_path, config=HUB | {"do_normalize": False})
    with pytest.raises(ValueError, match="image_mean"):
        write_policy(tmp_path, config=HUB | {"image_mean": [0.5, 0.5, 0.5]})
    for sizes in ({"max_pixels": -50176}, {"min_pixels": {}}, {"max_pixels": 1}):
        with pytest.raises(ValueError, match=r"processor allows images of .* pixels; take the"):
            write_policy(tmp_path, config=HUB | sizes)


# ---------------------------------------------------------------------------- window order


def test_pairs_are_padded_in_window_order(tmp_path):
    policy = write_policy(tmp_path)
    first, second = noise(200, 130, 1), noise(90, 260, 2)
    own = dataclasses.replace(policy, one_grid=False)
    pair, grids = patching.encode_pair(first, second, own, VISION)
    assert pair.patches.shape == (2, 256, 588)
    for i, image in enumerate((first, second)):
        patches, grid = patching.to_patches(image, policy, VISION)
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
    grid, same = patching.pair_grids(first, second, policy, VISION)
    assert grid == same == patching.pair_grids(second, first, policy, VISION)[0]
    assert grid[0] * grid[1] <= 256
    own = dataclasses.replace(policy, one_grid=False)
    alike = patching.pair_grids(first, first, policy, VISION)
    assert alike == patching.pair_grids(first, first, own, VISION)
    assert patching.pair_grids(first, second, own, VISION)[1] == patching.encoded_size(
        *second, policy, VISION
    )


def test_both_images_of_a_pair_get_one_grid(tmp_path):
    policy = write_policy(tmp_path)
    small, large = noise(112, 112, 1), noise(448, 448, 2)
    pair, grids = patching.encode_pair(small, large, policy, VISION)
    assert grids == ((16, 16), (16, 16))  # of 224 pixels, between the two
    swapped, _ = patching.encode_pair(large, small, policy, VISION)
    np.testing.assert_array_equal(pair.patches, swapped.patches[::-1])
    np.testing.assert_array_equal(pair.window[0], pair.window[1])


@given(size=st.tuples(st.integers(28, 900), st.integers(28, 900)))
@settings(deadline=None, max_examples=60)
def test_images_of_one_size_have_no_bars(size):
    """They are stretched by the rounding of the processor, as everywhere."""
    assume(max(size) < 60 * min(size))
    policy = ImagePolicy(3136, 256 * 196, 256)
    grid, _ = patching.pair_grids(size, size, policy, VISION)
    assert not patching.is_letterboxed(*size, grid, policy, VISION)


def test_images_of_other_aspects_keep_theirs_between_bars(tmp_path):
    policy = write_policy(tmp_path, 1024)
    wide, high = noise(576, 1024, 1), noise(1024, 576, 2)
    pair, grids = patching.encode_pair(wide, high, policy, VISION)
    assert grids == ((30, 30), (30, 30))
    side = 30 * 14
    inner = round(side * 576 / 1024)
    shown = np.full((side, side, 3), patching.bar_colour(VISION), np.uint8)
    small = Image.fromarray(wide).resize((side, inner), Image.Resampling.BICUBIC)
    shown[(side - inner) // 2 : (side - inner) // 2 + inner] = small
    patches, _ = patching.to_patches(wide, policy, VISION, grid=grids[0])
    np.testing.assert_array_equal(patches, patching.patchify(shown, VISION))
    swapped, _ = patching.encode_pair(high, wide, policy, VISION)
    np.testing.assert_array_equal(pair.patches, swapped.patches[::-1])


@pytest.mark.parametrize(("width", "bars"), [(112, False), (139, False), (150, True), (80, True)])
def test_what_rounding_does_needs_no_bars(tmp_path, width, bars):
    """Sides of 3.5 to 4.5 tokens round to 4, and so do aspects of up to 4.5 by 3.5."""
    policy = write_policy(tmp_path)
    assert patching.is_letterboxed(112, width, (8, 8), policy, VISION) == bars
    image = noise(112, width)
    plain = Image.fromarray(image).resize((112, 112), Image.Resampling.BICUBIC)
    patches, _ = patching.to_patches(image, policy, VISION, grid=(8, 8))
    same = np.array_equal(patches, patching.patchify(np.asarray(plain), VISION))
    assert same == (not bars)


def test_the_longest_image_is_shown_between_bars_as_a_line(tmp_path):
    policy = write_policy(tmp_path)
    patches, _ = patching.to_patches(np.zeros((14, 2800, 3), np.uint8), policy, VISION, grid=(4, 4))
    assert (patches == 0).sum() == 56 * 3  # one row of 56 pixels


def test_a_budget_that_is_no_multiple_of_a_window_is_refused(tmp_path):
    with pytest.raises(ValueError, match="max_patches=100"):
        patching.encode_pair(noise(20, 20), noise(20, 20), write_policy(tmp_path, 100), VISION)


def test_a_pair_of_the_longest_images_has_a_grid():
    """The mean of two ratios of 200 may come out a hair over it."""
    policy = ImagePolicy(28 * 28, 1024 * 196, 1024)
    one, other = patching.pair_grids((2800, 14), (3000, 15), policy, VISION)
    assert one == other
