"""Positions and window order, against transformers' functions and for arbitrary sizes."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.vision_utils import get_vision_position_ids, get_vision_window_index

from lrt_jax.models.qwen2_5_vl.config import read_config
from lrt_jax.models.qwen2_5_vl.positions import mrope_positions, window_order
from tests.models.hf_reference import IMAGE, as_torch, make_inputs

SIDE = st.integers(1, 40)


@pytest.fixture(scope="module")
def config(one):
    return read_config(one.folder)


@pytest.mark.parametrize("padding_side", ["left", "right"])
def test_equal_to_transformers(both, padding_side):
    inputs = make_inputs([1, 4, 2], both.shape, padding_side=padding_side, seed=3)
    names = ("input_ids", "mm_token_type_ids", "image_grid_thw", "attention_mask")
    tensors = {name: as_torch(inputs)[name] for name in names}
    wanted = both.hf.model.get_rope_index(**tensors)[0].numpy()
    grids = [tuple(grid[1:]) for grid in inputs["image_grid_thw"].tolist()]
    for row, (ids, mask) in enumerate(
        zip(inputs["input_ids"], inputs["attention_mask"], strict=True)
    ):
        count = [1, 4, 2][row]
        got = mrope_positions(ids[mask == 1], grids[:count], IMAGE, both.model.config.vision)
        np.testing.assert_array_equal(got, wanted[:, row, mask == 1])
        grids = grids[count:]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 9), SIDE, SIDE), min_size=1, max_size=4), st.integers(0, 9)
)
def test_positions_of_any_images_are_transformers(one, config, parts, tail):
    """Images of any sizes with any number of words before, between and after them."""
    tokens = [t for n, r, c in parts for t in [9] * (n + 1) + [IMAGE] * (r * c)] + [9] * tail
    ids = torch.tensor([tokens])
    grids = [(2 * rows, 2 * cols) for _, rows, cols in parts]
    wanted, _ = one.hf.model.get_rope_index(
        input_ids=ids,
        mm_token_type_ids=(ids == IMAGE).int(),
        image_grid_thw=torch.tensor([[1, *grid] for grid in grids]),
        attention_mask=torch.ones_like(ids),
    )
    got = mrope_positions(np.array(tokens), grids, IMAGE, config.vision)
    np.testing.assert_array_equal(got, wanted[:, 0].numpy())


@settings(max_examples=60, deadline=None)
@given(SIDE, SIDE)
def test_window_order_is_transformers(config, rows, cols):
    grid = (2 * rows, 2 * cols)
    thw = torch.tensor([[1, *grid]])
    index, ends = get_vision_window_index(thw, 2, config.vision.window_size, 14)
    order = window_order(grid, config.vision)
    np.testing.assert_array_equal(order.patches[::4] // 4, index.numpy())
    np.testing.assert_array_equal(np.flatnonzero(np.diff(order.window)) + 1, ends.numpy()[1:-1])
    coords = get_vision_position_ids(thw, 2).numpy()
    np.testing.assert_array_equal(order.coords, coords[order.patches])


@settings(max_examples=30, deadline=None)
@given(SIDE, SIDE)
def test_token_slot_undoes_the_order(config, rows, cols):
    order = window_order((2 * rows, 2 * cols), config.vision)
    np.testing.assert_array_equal(
        (order.patches[::4] // 4)[order.token_slot], np.arange(rows * cols)
    )


def test_the_documented_example(config):
    """Two images of 64 and 35 tokens in a prompt of 151 tokens."""
    tokens = [9] * 28 + [IMAGE] * 64 + [2, 1] + [IMAGE] * 35 + [9] * 22
    positions = mrope_positions(np.array(tokens), [(16, 16), (10, 14)], IMAGE, config.vision)
    np.testing.assert_array_equal(positions[:, :28], np.tile(np.arange(28), (3, 1)))
    assert (positions[0, 28:92] == 28).all()
    assert positions[1:, 28:92].min() == 28 and positions[1:, 28:92].max() == 35
    assert positions[0, 92] == 36 and positions[0, 93] == 37 and positions[0, 94] == 38
    np.testing.assert_array_equal(positions[:, -22:], np.tile(np.arange(45, 67), (3, 1)))


@pytest.mark.parametrize(
    "tokens, grids, message",
    [
        ([9, IMAGE, IMAGE, 9], [(2, 2)], "2 image tokens"),
        ([9, IMAGE, 9, IMAGE], [(2, 4)], "contiguous"),
        ([9, IMAGE], [(2, 3)], "multiple of 2"),
    ],
)
def test_prompts_that_do_not_fit_their_images(config, tokens, grids, message):
    with pytest.raises(ValueError, match=message):
        mrope_positions(np.array(tokens), grids, IMAGE, config.vision)
