"""Qwen2-VL's image processor, which Qwen2.5-VL has too: sizes of images, and its files."""

import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from lrt_jax.models.inputs import PixelBounds
from lrt_jax.storage.disk import read_fields, read_plainly

if TYPE_CHECKING:
    from transformers import Qwen2VLImageProcessorPil

# Of RGB in [0, 1]; CLIP's, with which every Qwen2.5-VL was trained. A checkpoint whose image
# processor says otherwise is refused.
IMAGE_MEAN = (0.48145466, 0.4578275, 0.40821073)
IMAGE_STD = (0.26862954, 0.26130258, 0.27577711)

REMEDY = "copy the image processor's files of the checkpoint"
OWN_CONFIG, ALL_CONFIGS = "preprocessor_config.json", "processor_config.json"
MAX_ASPECT = 200  # of the longer to the shorter side; beyond it the models were never trained
ROUNDING = 1e-6  # of the means of two images' sides, whose ratio may be a hair over the bound


def smart_resize(
    height: float, width: float, factor: int, min_pixels: int, max_pixels: int
) -> tuple[int, int]:
    """Size in pixels to which an image is resized: multiples of `factor`, area within bounds.

    Both sides are rounded on their own; where the area then leaves the bounds, both are scaled
    alike and rounded inwards (transformers: `smart_resize`). A side is never below `factor`, so
    that very long images can exceed `max_pixels`.

    Raises:
      ValueError: an aspect ratio over `MAX_ASPECT`.
    """
    if max(height, width) > MAX_ASPECT * min(height, width) * (1 + ROUNDING):
        raise ValueError(f"aspect ratio of {width:g}x{height:g} pixels is over {MAX_ASPECT}")
    area = round(height / factor) * round(width / factor) * factor**2
    if area > max_pixels:
        shrink = math.sqrt(height * width / max_pixels)
        return tuple(
            max(factor, math.floor(side / shrink / factor) * factor) for side in (height, width)
        )
    if area < min_pixels:
        grow = math.sqrt(min_pixels / (height * width))
        return tuple(math.ceil(side * grow / factor) * factor for side in (height, width))
    return round(height / factor) * factor, round(width / factor) * factor


def read_pixel_bounds(folder: Path) -> PixelBounds:
    """Reads a checkpoint's image processor, in the hub's or in the nested v5 layout.

    Raises:
      FileNotFoundError: the folder has neither preprocessor_config.json nor processor_config.json.
      ValueError: a processor that does not resize bicubically, scale by 1/255 and normalise, or a
        file without fields.
    """
    from transformers import Qwen2VLImageProcessorPil  # 3 s, which workers save

    _check_fields(folder)
    with read_plainly(folder, REMEDY):
        processor = Qwen2VLImageProcessorPil.from_pretrained(folder)
        _check_processor(processor, folder)
    size = processor.size
    return PixelBounds(int(size["shortest_edge"]), int(size["longest_edge"]), processor.patch_size)


def _check_fields(folder: Path) -> None:
    """Refuses files that say nothing of an image processor: transformers would make one up."""
    there = [folder / name for name in (OWN_CONFIG, ALL_CONFIGS) if (folder / name).is_file()]
    if not there:
        raise FileNotFoundError(
            f"{folder}: no {OWN_CONFIG} or {ALL_CONFIGS}; a model folder has one"
        )
    found = {path.name: read_fields(path, REMEDY) for path in there}
    if not found.get(OWN_CONFIG) and not found.get(ALL_CONFIGS, {}).get("image_processor"):
        raise ValueError(f"{there[0]}: no fields of an image processor; {REMEDY}")


def _check_processor(processor: "Qwen2VLImageProcessorPil", folder: Path) -> None:
    wanted = {
        "do_resize": True,
        "do_rescale": True,
        "do_normalize": True,
        "resample": int(Image.Resampling.BICUBIC),
        "rescale_factor": 1 / 255,
        "image_mean": IMAGE_MEAN,
        "image_std": IMAGE_STD,
    }
    for name, value in wanted.items():
        if not np.allclose(getattr(processor, name), value, rtol=1e-6):
            raise ValueError(
                f"{folder}: the image processor has {name}={getattr(processor, name)!r}; only "
                f"{value!r} is implemented"
            )
    least, most = (processor.size[edge] for edge in ("shortest_edge", "longest_edge"))
    if not (type(least) is type(most) is int and 0 < least <= most):
        raise ValueError(
            f"{folder}: the image processor allows images of {least!r} to {most!r} pixels; take "
            "the files that came with the checkpoint"
        )
