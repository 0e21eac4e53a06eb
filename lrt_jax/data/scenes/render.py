"""Scenes to pixels, all images of a block at once."""

import io

import numpy as np
from jaxtyping import Float, Int, UInt8
from PIL import Image
from scipy.ndimage import gaussian_filter

from lrt_jax.data.scenes.world import COLOUR, PLACE, QUALITIES, SHAPE, SHAPES, SIZE, Scenes

CELL = 28  # pixels of a side of a grid cell: one merged token of Qwen2.5-VL
GRID = 3
RADIUS = (6.0, 11.0)  # pixels, of small and of large objects
JITTER = 1.5  # pixels by which an object leaves the middle of its cell
RGB = np.array(
    [(214, 40, 40), (40, 160, 60), (45, 80, 215), (240, 200, 40), (140, 50, 170), (50, 190, 205)],
    np.float32,
)
FRAME = 2  # pixels of the dark edge, by which a patch can be told from its neighbours
FRAME_SHADE = 60.0
BLUR = 2.5  # pixels, standard deviation
NOISE = 55.0  # gray levels, likewise
DARKENED = 0.45


def paint(rng: np.random.Generator, scenes: Scenes) -> UInt8[np.ndarray, "n 84 84 3"]:
    """Draws scenes: anti-aliased shapes on a light ground, then what went wrong with the picture.

    Args:
      rng: of the ground's shade, the objects' places inside their cells, and noise.
      scenes: what to draw.
    """
    n, side = len(scenes), GRID * CELL
    canvas = np.empty((n, side, side, 3), np.float32)
    canvas[:] = FRAME_SHADE
    canvas[:, FRAME:-FRAME, FRAME:-FRAME] = rng.uniform(215, 245, (n, 1, 1, 3))
    for k in range(scenes.objects.shape[1]):
        _paint_object(rng, canvas, scenes, k)
    _spoil(rng, canvas, scenes.quality)
    return np.clip(canvas + 0.5, 0, 255).astype(np.uint8)


def _paint_object(rng, canvas: Float[np.ndarray, "n h w 3"], scenes: Scenes, k: int) -> None:
    here = np.flatnonzero(scenes.there[:, k])
    objects = scenes.objects[here, k]
    shift = rng.uniform(-JITTER, JITTER, (len(here), 2))
    cover = _cover(objects[:, SHAPE], np.array(RADIUS)[objects[:, SIZE]], shift)
    cells = canvas.reshape(len(canvas), GRID, CELL, GRID, CELL, 3)
    under = cells[here, k, :, objects[:, PLACE]]
    colour = RGB[objects[:, COLOUR]][:, None, None]
    cells[here, k, :, objects[:, PLACE]] = under + cover[..., None] * (colour - under)


def _cover(
    shape: Int[np.ndarray, " n"], radius: Float[np.ndarray, " n"], shift: Float[np.ndarray, "n 2"]
) -> Float[np.ndarray, "n c c"]:
    """Share of each pixel of a cell that a shape covers, from its distance to the outline."""
    middle = np.arange(CELL) - (CELL - 1) / 2
    y, x = (middle[None] - shift[:, axis, None] for axis in (0, 1))
    y, x, r = y[:, :, None], x[:, None, :], radius[:, None, None]
    beside, below = np.abs(x), np.abs(y)
    outline = {
        "circle": np.hypot(x, y) - r,
        "square": np.maximum(beside, below) - 0.88 * r,
        "triangle": np.maximum(y - 0.7 * r, 0.87 * beside - 0.5 * (y + r)),
        "cross": np.maximum(np.minimum(beside, below) - 0.32 * r, np.maximum(beside, below) - r),
    }
    distance = np.choose(shape[:, None, None], [outline[name] for name in SHAPES])
    return np.clip(0.5 - distance, 0, 1)


def _spoil(rng, canvas: Float[np.ndarray, "n h w 3"], quality: Int[np.ndarray, " n"]) -> None:
    blurry, noisy, dark = (quality == QUALITIES.index(q) for q in ("blurry", "noisy", "dark"))
    canvas[blurry] = gaussian_filter(canvas[blurry], (0, BLUR, BLUR, 0), mode="nearest")
    canvas[noisy] += NOISE * rng.standard_normal(canvas[noisy].shape, np.float32)
    canvas[dark] *= DARKENED


def to_png(pixels: UInt8[np.ndarray, "h w 3"]) -> bytes:
    """A PNG file, written for speed."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png", compress_level=1)
    return file.getvalue()
