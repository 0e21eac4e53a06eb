"""Inputs as transformers' processor returns them, to inputs of ours, and logits back."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from lrt_jax.models.inputs import Prompt
from lrt_jax.models.qwen2_5_vl.config import ModelConfig
from lrt_jax.models.qwen2_5_vl.model import Qwen2_5_VL
from lrt_jax.models.qwen2_5_vl.positions import window_order


def apply_hf(
    model: Qwen2_5_VL, params: Mapping, inputs: Mapping[str, np.ndarray]
) -> Float[Array, "batch length vocab"]:
    """Logits for what transformers' processor returns, see `models.apply_hf`."""

    def call(method: str, *args) -> Array:
        return model.apply({"params": params}, *args, method=method)

    sequence, patches, coords, window = from_hf(inputs, model.config)
    tokens = call("encode_patches", patches, coords, window)
    every = tokens.reshape(-1, tokens.shape[-1])  # of all images, which any row may show
    features = jnp.broadcast_to(every, (len(sequence.length), *every.shape))
    logits = call("logits", call("forward", sequence, features))
    return to_hf_rows(logits, inputs["attention_mask"])


def from_hf(
    inputs: Mapping[str, np.ndarray], config: ModelConfig
) -> tuple[Prompt, Float[Array, "N p d"], Int[Array, "N p 2"], Int[Array, "N p"]]:
    """Right-padded sequences, and all images of the batch as patches in window order.

    `Prompt.image_index` counts through the images of the whole batch.

    Raises:
      KeyError: `mm_token_type_ids` or another input is missing.
      ValueError: videos, two different frames in one patch, or token types that do not mark the
        image tokens.
    """
    _check_still_images(inputs, config)
    grids = [tuple(int(n) for n in grid[1:]) for grid in inputs.get("image_grid_thw", ())]
    patches, coords, window = _window_patches(inputs.get("pixel_values"), grids, config)
    slots = np.split(*_slots(grids, patches.shape[1], config))
    mask = np.asarray(inputs["attention_mask"]).astype(bool)
    rows = []
    for tokens, keep in zip(np.asarray(inputs["input_ids"]), mask, strict=True):
        used = _images_of(tokens[keep], grids, config)
        rows.append(_row(tokens[keep], grids[:used], slots[:used], mask.shape[1], config))
        grids, slots = grids[used:], slots[used:]
    prompt = Prompt(*(np.stack(x) for x in zip(*rows, strict=True)))
    return jax.tree.map(jnp.asarray, (prompt, patches, coords, window))


def to_hf_rows(logits: Float[Array, "b s v"], attention_mask: np.ndarray) -> Float[Array, "b s v"]:
    """Moves right-padded rows to where `attention_mask` has its ones; zero elsewhere."""
    mask = np.asarray(attention_mask).astype(bool)
    source = np.where(mask, np.cumsum(mask, axis=1) - 1, 0)
    moved = jnp.take_along_axis(logits, jnp.asarray(source)[..., None], axis=1)
    return jnp.where(mask[..., None], moved, 0.0)


def _check_still_images(inputs: Mapping[str, np.ndarray], config: ModelConfig) -> None:
    for name in ("input_ids", "attention_mask", "mm_token_type_ids"):
        if name not in inputs:
            raise KeyError(f"{name} is missing from the inputs; the processor returns it")
    if "pixel_values_videos" in inputs:
        raise ValueError("pixel_values_videos: videos are not supported, only still images")
    is_image = np.asarray(inputs["input_ids"]) == config.image_token_id
    marked = np.asarray(inputs["mm_token_type_ids"]) == 1
    if not np.array_equal(is_image, marked):
        raise ValueError("mm_token_type_ids does not mark exactly the image tokens of input_ids")


def _window_patches(pixel_values, grids, config: ModelConfig):
    """All images, each padded to the largest: patches [N, p, d], coords, windows."""
    c = config.vision
    step = c.window_patches
    width = max([-(-h * w // step) * step for h, w in grids], default=step)
    patches = np.zeros((max(len(grids), 1), width, c.patch_dim), np.float32)
    coords = np.zeros((len(patches), width, 2), np.int32)
    window = np.full((len(patches), width), -1, np.int32)
    start = 0
    for i, grid in enumerate(grids):
        order = window_order(grid, c)
        n = len(order.patches)
        patches[i, :n] = _one_frame(pixel_values[start : start + n], c)[order.patches]
        coords[i, :n], window[i, :n] = order.coords, order.window
        start += n
    return patches, coords, window


def _one_frame(pixel_values: np.ndarray, vision) -> np.ndarray:
    frames = np.asarray(pixel_values, np.float32).reshape(
        len(pixel_values), vision.in_channels, vision.temporal_patch_size, -1
    )
    if not (frames == frames[:, :, :1]).all():
        raise ValueError("pixel_values: the frames of a patch differ; only still images are read")
    return frames[:, :, 0].reshape(len(frames), -1)


def _slots(grids, width: int, config: ModelConfig) -> tuple[np.ndarray, np.ndarray]:
    """Indices of merged tokens among all features in raster order, and where to split by image."""
    unit = config.vision.merge_unit
    orders = [window_order(grid, config.vision).token_slot for grid in grids]
    parts = [i * (width // unit) + slots for i, slots in enumerate(orders)]
    sizes = [len(part) for part in parts]
    return np.concatenate([*parts, np.zeros(0, np.int32)]).astype(np.int32), np.cumsum(sizes)


def _images_of(tokens: np.ndarray, grids, config: ModelConfig) -> int:
    """How many of the next images belong to this row: as many as fill its image tokens."""
    wanted = int((tokens == config.image_token_id).sum())
    filled = np.cumsum([0, *(h * w // config.vision.merge_unit for h, w in grids)])
    matches = np.flatnonzero(filled == wanted)
    if not matches.size:
        raise ValueError(f"{wanted} image tokens in a row do not match image_grid_thw")
    return int(matches[0])


def _row(tokens, grids, slots, width: int, config: ModelConfig):
    is_image: Bool[np.ndarray, " s"] = tokens == config.image_token_id
    padded = np.zeros(width, np.int32)
    positions = np.zeros((3, width), np.int32)
    index = np.full(width, -1, np.int32)
    padded[: len(tokens)] = tokens
    positions[:, : len(tokens)] = config.positions(tokens, grids)
    index[: len(tokens)][is_image] = np.concatenate([*slots, np.zeros(0, np.int32)])
    return padded, positions, index, np.int32(len(tokens))
