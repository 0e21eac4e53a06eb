"""Pixels to patches, as a family's image processor makes them, but uint8 and one frame.

A still image shows the same frame twice and every model normalises alike, so the host sends the raw
bytes of one frame, 1/8 of the processor's float32 pair, and the device does the rest.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int, UInt8
from PIL import Image

from lrt_jax.data.images import Pixels, as_image, check_aspect, sides
from lrt_jax.models.api import ImageLayout
from lrt_jax.models.inputs import Grid, Images, PatchOrder

PADDING_WINDOW = -1


class EncodedImage(NamedTuple):
    """One image of `Images`, NumPy; the fields are its."""

    patches: UInt8[np.ndarray, "p d"]
    coords: Int[np.ndarray, "p 2"]
    window: Int[np.ndarray, " p"]


@dataclasses.dataclass(frozen=True)
class ImagePolicy:
    """How images are brought to size and normalised; a checkpoint's own, within a patch budget."""

    min_pixels: int
    max_pixels: int  # already within max_patches
    max_patches: int  # static patches per image, padding included
    one_grid: bool = True  # both images of a pair, so that tokens do not tell their native sizes


def read_image_policy(
    folder: str | Path, vision: ImageLayout, max_patches: int, one_grid: bool = True
) -> ImagePolicy:
    """Reads a checkpoint's image processor.

    Args:
      folder: of the checkpoint.
      vision: how its family cuts images.
      max_patches: of one image.
      one_grid: for both images of a pair.

    Raises:
      FileNotFoundError: the folder has no image processor.
      ValueError: a budget below the checkpoint's smallest image, or a processor that does what is
        not implemented.
    """
    smallest, largest, patch_size = vision.read_pixel_bounds(Path(folder))
    budget = max_patches * patch_size**2
    if budget < smallest:
        raise ValueError(
            f"max_patches={max_patches} is {budget} pixels, but {folder} enlarges every image to "
            f"at least {smallest}: allow {-(-smallest // patch_size**2)} patches or more"
        )
    return ImagePolicy(
        min_pixels=smallest,
        max_pixels=min(largest, budget),
        max_patches=max_patches,
        one_grid=one_grid,
    )


def bar_colour(vision: ImageLayout) -> tuple[int, int, int]:
    """RGB of the bars beside an image: about 0, once it is normalised."""
    return tuple(round(255 * mean) for mean in vision.image_mean)


def to_patches(
    image: Pixels,
    policy: ImagePolicy,
    vision: ImageLayout,
    name: str = "image",
    grid: Grid | None = None,
) -> tuple[UInt8[np.ndarray, "n d"], Grid]:
    """Resizes an image and cuts it into patches, in merge order: the processor's own.

    Within a grid of another aspect it keeps its own, between bars; see `is_letterboxed`.

    Args:
      image: pixels.
      policy: how it is brought to size.
      vision: how the family cuts images.
      name: what to call it in errors.
      grid: rows and columns of patches; None for those of the image's own size.

    Returns:
      uint8 [n, d] patches, `d` running over channel, row, column of one frame, and the grid.

    Raises:
      ImageError: an aspect ratio over `MAX_ASPECT`.
    """
    height, width = sides(image)
    check_aspect(height, width, name)
    grid = grid or encoded_size(height, width, policy, vision)
    size = (grid[1] * vision.patch_size, grid[0] * vision.patch_size)
    if is_letterboxed(height, width, grid, policy, vision):
        shown = _between_bars(as_image(image), size, bar_colour(vision))
    else:
        shown = _stretched(as_image(image), size)
    return patchify(np.asarray(shown), vision), grid


def is_letterboxed(
    height: int, width: int, grid: Grid, policy: ImagePolicy, vision: ImageLayout
) -> bool:
    """Whether an image of so many pixels has bars beside it in a grid.

    It has where the aspects of the two differ by more than rounding does that brings an image's
    sides to multiples of a merged token. At its own grid an image never has any.
    """
    if grid == encoded_size(height, width, policy, vision):
        return False
    rows, columns = (side / vision.merge_size for side in grid)
    # Sides are rounded to the nearest number of tokens, or down to the bound of pixels.
    narrowest = min((columns - 0.5) / (rows + 0.5), columns / (rows + 1))
    widest = max((columns + 0.5) / (rows - 0.5), (columns + 1) / rows)
    return not narrowest <= width / height <= widest


def _stretched(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    return image.resize(size, Image.Resampling.BICUBIC)


def _between_bars(
    image: Image.Image, size: tuple[int, int], colour: tuple[int, int, int]
) -> Image.Image:
    """Resizes an image to fit into width and height, centred, with bars beside it."""
    scale = min(room / side for room, side in zip(size, image.size, strict=True))
    inner = tuple(max(1, round(side * scale)) for side in image.size)
    shown = Image.new("RGB", size, colour)
    corner = tuple((room - side) // 2 for room, side in zip(size, inner, strict=True))
    shown.paste(_stretched(image, inner), corner)
    return shown


def encoded_size(height: float, width: float, policy: ImagePolicy, vision: ImageLayout) -> Grid:
    """Grid of patches, rows and columns, of an image of so many pixels.

    Where the processor itself exceeds its bound, for images far longer than wide, the longer side
    is squeezed into the patch budget.
    """
    size = vision.resized(height, width, policy.min_pixels, policy.max_pixels)
    factor = vision.patch_size * vision.merge_size
    most = policy.max_patches // vision.merge_unit * factor // min(size) * factor
    rows, columns = (min(side, most) // vision.patch_size for side in size)
    return rows, columns


def pair_grids(
    first: tuple[int, int], second: tuple[int, int], policy: ImagePolicy, vision: ImageLayout
) -> tuple[Grid, Grid]:
    """Grids of the two images of a pair, whichever of them is shown first.

    With `one_grid` both get that of an image of the geometric mean height and width. It follows
    from the products of the heights and of the widths alone, so that it tells nothing of either; an
    image of another aspect is letterboxed (see `to_patches`).

    Args:
      first: height and width in pixels.
      second: the same of the other.
      policy: of the images.
      vision: how the family cuts images.
    """
    one, other = shown_grids([first, second], policy, vision)
    return one, other


def shown_grids(
    sizes: Sequence[tuple[int, int]], policy: ImagePolicy, vision: ImageLayout
) -> list[Grid]:
    """As `pair_grids`, of any number of images that are to be compared with one another.

    Args:
      sizes: height and width of each in pixels.
      policy: of the images.
      vision: how the family cuts images.
    """
    if not policy.one_grid:
        return [encoded_size(*size, policy, vision) for size in sizes]
    height, width = (_geometric_mean(sides) for sides in zip(*sizes, strict=True))
    return [encoded_size(height, width, policy, vision)] * len(sizes)


def _geometric_mean(sides: Sequence[int]) -> float:
    """Whatever the order; that of equal sides is their own."""
    if len(sides) == 2:
        return math.sqrt(math.prod(sides))
    return round(math.exp(math.fsum(map(math.log, sides)) / len(sides)), 6)


def patchify(image: UInt8[np.ndarray, "H W 3"], vision: ImageLayout) -> UInt8[np.ndarray, "n d"]:
    """Cuts an image into patches; those of a merged token follow one another."""
    patch, merge = vision.patch_size, vision.merge_size
    rows, cols = (side // (patch * merge) for side in image.shape[:2])
    blocks = image.reshape(rows, merge, patch, cols, merge, patch, vision.in_channels)
    return blocks.transpose(0, 3, 1, 4, 6, 2, 5).reshape(-1, vision.patch_dim)


@functools.lru_cache(maxsize=512)
def order_of(grid: Grid, vision: ImageLayout) -> PatchOrder:
    """`patch_order`, kept: most images have one of a few grids. Not to be written to."""
    order = vision.patch_order(grid)
    for array in order:
        array.setflags(write=False)
    return order


def encode_pair(
    first: Pixels,
    second: Pixels,
    policy: ImagePolicy,
    vision: ImageLayout,
    names: tuple[str, str] = ("image 0", "image 1"),
) -> tuple[Images, tuple[Grid, Grid]]:
    """Patches of both images of a pair in window order, each padded to `policy.max_patches`.

    Args:
      first: pixels of the image that is shown first.
      second: pixels of the other.
      policy: how they are brought to size.
      vision: how the family cuts images.
      names: what to call them in errors.

    Returns:
      Unbatched `Images` of NumPy arrays, leading axis the image, and their `pair_grids`.

    Raises:
      ImageError: see `to_patches`.
      ValueError: a patch budget that is not a multiple of what the model asks for.
    """
    for image, name in zip((first, second), names, strict=True):
        check_aspect(*sides(image), name)
    grids = pair_grids(sides(first), sides(second), policy, vision)
    encoded = [
        encode_image(image, grid, policy, vision, name)
        for image, grid, name in zip((first, second), grids, names, strict=True)
    ]
    return Images(*(np.stack(column) for column in zip(*encoded, strict=True))), grids


def encode_image(
    image: Pixels, grid: Grid, policy: ImagePolicy, vision: ImageLayout, name: str
) -> EncodedImage:
    """Patches of one image in window order, padded to `policy.max_patches`.

    Args:
      image: pixels.
      grid: in which it is shown, of `shown_grids`.
      policy: how it is brought to size.
      vision: how the family cuts images.
      name: what to call it in errors.

    Raises:
      ImageError: see `to_patches`.
      ValueError: a patch budget that is not a multiple of what the model asks for.
    """
    budget = policy.max_patches
    if budget % vision.patch_multiple:
        raise ValueError(
            f"max_patches={budget} is not a multiple of the {vision.patch_multiple} patches of an "
            "attention window"
        )
    cut, _ = to_patches(image, policy, vision, name, grid)
    order, n = order_of(grid, vision), len(cut)
    encoded = EncodedImage(
        patches=np.zeros((budget, vision.patch_dim), np.uint8),
        coords=np.zeros((budget, 2), np.int32),
        window=np.full(budget, PADDING_WINDOW, np.int32),
    )
    # "clip" writes straight into its place; the default goes through a buffer.
    np.take(cut, order.patches, axis=0, out=encoded.patches[:n], mode="clip")
    encoded.coords[:n], encoded.window[:n] = order.coords, order.window
    return encoded
