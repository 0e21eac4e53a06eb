"""What a model reads: the images of a batch, and tokenised prompts."""

from typing import NamedTuple

import numpy as np
from flax import struct
from jaxtyping import Array, Int, UInt8

Grid = tuple[int, int]  # height, width of an image, in patches


class PatchOrder(NamedTuple):
    """The order in which one image's `n` patches run through a vision tower.

    Attributes:
      patches: int32 [n], place of each patch in merge order (the image processor's), window by
        window.
      coords: int32 [n, 2], row and column of each patch, in window order.
      window: int32 [n], index of each patch's attention window, in window order, non-decreasing.
      token_slot: int32 [n / merge_unit], for each merged token in raster order its place in window
        order.
    """

    patches: Int[np.ndarray, " n"]
    coords: Int[np.ndarray, "n 2"]
    window: Int[np.ndarray, " n"]
    token_slot: Int[np.ndarray, " m"]


class PixelBounds(NamedTuple):
    """How an image processor brings images to size.

    Attributes:
      least: pixels of an image.
      most: pixels of an image.
      patch_size: side of a patch, in pixels.
    """

    least: int
    most: int
    patch_size: int


@struct.dataclass
class Images:
    """The two images of every pair, as patches in window order (see `PatchOrder`)."""

    patches: UInt8[Array, "B 2 p d"]  # d values: channel, row, column of one frame
    coords: Int[Array, "B 2 p 2"]  # row and column of each patch
    window: Int[Array, "B 2 p"]  # attention window; -1 marks padding


@struct.dataclass
class Prompt:
    """A tokenised conversation up to where the answer begins, padded on the right."""

    tokens: Int[Array, "B s"]
    positions: Int[Array, "B 3 s"]  # M-RoPE: time, height, width
    image_index: Int[Array, "B s"]  # merged token of the pair, in [0, 2p/4), or -1 for text
    length: Int[Array, " B"]  # tokens that are not padding, at least 2; the last one is text
