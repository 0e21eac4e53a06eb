"""Where patches and tokens stand: window order, M-RoPE positions. NumPy, on the host.

Grids never reach a jitted function; what these functions return does, at static shapes.
"""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int

from lrt_jax.models.inputs import Grid, PatchOrder


@runtime_checkable
class WindowSizes(Protocol):
    """What of a vision tower's config decides where patches and tokens stand."""

    merge_size: int
    merge_unit: int
    window_tokens: int


def window_order(grid: Grid, config: WindowSizes) -> PatchOrder:
    """Window order of one image (transformers: `get_vision_window_index`).

    Windows are cut from the top left in raster order, those at the right and lower edges may be
    smaller; inside a window merged tokens are in raster order, and the patches of a merged token
    stay together.

    Raises:
      ValueError: the grid is not a multiple of the merge size.
    """
    rows, cols = _merged_grid(grid, config)
    row, col = (axis.ravel() for axis in np.indices((rows, cols)))
    side = config.window_tokens
    windows_per_row = -(-cols // side)
    window = (row // side) * windows_per_row + col // side
    order = np.argsort(window, kind="stable")
    inside = np.indices((config.merge_size, config.merge_size)).reshape(2, -1)  # [2, merge_unit]
    corner = np.stack([row, col])[:, order, None] * config.merge_size  # [2, m, 1]
    patches = order[:, None] * config.merge_unit + np.arange(config.merge_unit)
    return PatchOrder(
        patches=patches.ravel().astype(np.int32),
        coords=(corner + inside[:, None]).reshape(2, -1).T.astype(np.int32),
        window=np.repeat(window[order], config.merge_unit).astype(np.int32),
        token_slot=np.argsort(order).astype(np.int32),
    )


def mrope_positions(
    tokens: Int[np.ndarray, " s"], grids: Sequence[Grid], image_token_id: int, config: WindowSizes
) -> Int[np.ndarray, "3 s"]:
    """Time, height and width position of every token of one unpadded prompt.

    Text counts up on all three axes; an image's tokens share one time position and count rows and
    columns from there, and the text after it goes on at the image's longer side (Qwen2-VL,
    arXiv 2409.12191, section 2.1; transformers: `get_rope_index`).

    Returns:
      int32 [3, s].

    Raises:
      ValueError: the runs of `image_token_id` do not match `grids`, in number or in length.
    """
    tokens = np.asarray(tokens)
    starts = image_token_starts(tokens, grids, image_token_id, config)
    positions = np.zeros((3, len(tokens)), np.int32)
    begin = position = 0
    for start, grid in zip([*starts, len(tokens)], [*grids, None], strict=True):
        text = start - begin
        positions[:, begin:start] = position + np.arange(text)
        begin, position = start, position + text
        if grid is None:
            break
        rows, cols = _merged_grid(grid, config)
        row, col = (axis.ravel() for axis in np.indices((rows, cols)))
        positions[:, begin : begin + row.size] = position + np.stack([0 * row, row, col])
        begin, position = begin + row.size, position + max(rows, cols)
    return positions


def image_token_starts(
    tokens: Int[np.ndarray, " s"], grids: Sequence[Grid], image_token_id: int, config: WindowSizes
) -> list[int]:
    """Index of each image's first token.

    Raises:
      ValueError: the image tokens do not add up to the merged tokens of `grids`, or are not
        contiguous per image.
    """
    indices = np.flatnonzero(np.asarray(tokens) == image_token_id)
    sizes = [int(np.prod(_merged_grid(grid, config))) for grid in grids]
    if indices.size != sum(sizes):
        raise ValueError(
            f"{indices.size} image tokens in the prompt, but images of {sizes} merged tokens"
        )
    runs = np.split(indices, np.cumsum(sizes)[:-1]) if sizes else []
    if any(run[-1] - run[0] + 1 != run.size for run in runs):
        raise ValueError("the tokens of an image must be contiguous in the prompt")
    return [int(run[0]) for run in runs]


def _merged_grid(grid: Grid, config: WindowSizes) -> tuple[int, int]:
    height, width = (int(side) for side in grid)
    if height % config.merge_size or width % config.merge_size or height < 1 or width < 1:
        raise ValueError(f"grid {height}x{width} is not a multiple of {config.merge_size} patches")
    return height // config.merge_size, width // config.merge_size
