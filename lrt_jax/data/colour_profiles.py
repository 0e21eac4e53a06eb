"""Colour profiles that image files carry: what they mean by their numbers, in sRGB's numbers."""

import functools
import io

import numpy as np
from PIL import Image, ImageCms

CONVERTED = "colour profile made sRGB"
LEFT_OUT = "colour profile that cannot be used left out"
SAME = 2  # of 255: a profile by which no colour moves further says that the image is sRGB
STEP = 17  # between the colours that are tried, of which there are 16 in each channel
# Pillow's mode of the pixels that a profile speaks of, by the profile's colour space.
MODES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}
# Modes of images that such a profile may be of: of gray ones too, whose three channels are alike.
OF_IMAGES = {
    "RGB": ("RGB", "RGBA", "RGBX", "P", "PA", "YCbCr", "L", "LA", "1"),
    "L": ("L", "LA", "1"),
    "CMYK": ("CMYK",),
}


def to_srgb(image: Image.Image, profile: bytes | None) -> tuple[Image.Image, str]:
    """Converts an image of 8 bits a channel from the colours of its profile.

    Args:
      image: pixels of any mode; transparency stays.
      profile: ICC profile that the file carries; None where it is cut.

    Returns:
      The image, and what was done: `CONVERTED`; `LEFT_OUT` where the profile cannot be read or is
      of other pixels; or nothing where it says sRGB already, and no pixel is touched.
    """
    try:
        mode, transform = _transform(profile or b"")
    except (OSError, ValueError, ImageCms.PyCMSError):
        return image, LEFT_OUT
    if image.mode not in OF_IMAGES[mode]:
        return image, LEFT_OUT
    if transform is None:
        return image, ""
    converted = ImageCms.applyTransform(image.convert(mode), transform)
    if image.has_transparency_data:
        converted.putalpha(image.convert("RGBA").getchannel("A"))
    return converted, CONVERTED


@functools.lru_cache(maxsize=64)  # files of one camera or program have one profile
def _transform(profile: bytes) -> tuple[str, ImageCms.ImageCmsTransform | None]:
    """The mode that a profile is for, and the way to sRGB; None where there is nowhere to go."""
    source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    space = source.profile.xcolor_space.strip()
    if space not in MODES:
        raise ValueError(f"a profile of {space}")
    mode = MODES[space]
    transform = ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB")
    return mode, None if _changes_nothing(transform, mode) else transform


def _changes_nothing(transform: ImageCms.ImageCmsTransform, mode: str) -> bool:
    if mode == "CMYK":
        return False
    levels = np.arange(0, 256, STEP, dtype=np.uint8)
    red, green, blue = np.meshgrid(levels, levels, levels)
    tried = np.stack([red, green, blue], axis=-1).reshape(len(levels), -1, 3)
    if mode == "L":
        tried = np.repeat(levels[None, :, None], 3, axis=2)
    image = Image.fromarray(tried).convert(mode)
    moved = np.asarray(ImageCms.applyTransform(image, transform)).astype(int) - tried
    return bool(np.abs(moved).max() <= SAME)
