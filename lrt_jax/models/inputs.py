"""What a model reads: the images of a batch, and tokenised prompts."""

from typing import NamedTuple

import numpy as np
from flax import struct
from jaxtyping import Array, Int, UInt8

AnyArray = Array | np.ndarray  # on devices, or on the host
Grid = tuple[int, int]  # height, width of an image, in patches


class PatchOrder(NamedTuple):
    """The order in which one image's `n` patches run through a vision tower.

    Attributes:
      patches: int32 [n], index of each patch in merge order (the image processor's), window by
        window.
      coords: int32 [n, 2], row and column of each patch, in window order.
      window: int32 [n], number of each patch's window, as the family cuts them: in window order,
        non-decreasing.
      token_slot: int32 [n / merge_unit], for each merged token in raster order its index in window
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
    """The two images of every pair, as patches in window order (see `PatchOrder`).

    Those of one pair have no leading axis, until they are made part of a batch.
    """

    patches: UInt8[AnyArray, "*B 2 p d"]  # d values: channel, row, column of one frame
    coords: Int[AnyArray, "*B 2 p 2"]  # row and column of each patch
    window: Int[AnyArray, "*B 2 p"]  # of `PatchOrder`; -1 marks padding


@struct.dataclass
class Prompt:
    """A tokenised conversation up to where the answer begins, padded on the right.

    That of one pair has no leading axis, until it is made part of a batch.
    """

    tokens: Int[AnyArray, "*B s"]
    positions: Int[AnyArray, "*B 3 s"]  # M-RoPE: time, height, width
    image_index: Int[AnyArray, "*B s"]  # merged token of the pair, in [0, 2p/4), or -1 for text
    length: Int[AnyArray | np.integer, "*B"]  # tokens but padding, at least 2; the last is text
