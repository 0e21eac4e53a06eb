"""Images as people hand them over, to pixels."""

import dataclasses
import hashlib
import os
from collections.abc import Iterable
from typing import Any

import numpy as np
from PIL import Image

from lrt_jax.data.images import UNREADABLE, ImageError, check_sides, open_rgb, to_rgb

# A path, a whole image file, Pillow's own, or pixels: uint8, [H, W], [H, W, 3] or [H, W, 4].
ImageSource = str | os.PathLike | bytes | Image.Image | np.ndarray

KINDS = "an image is a path, the bytes of a file, a PIL image or an array"
ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif")


@dataclasses.dataclass(frozen=True)
class Picture:
    """An image that somebody gave."""

    pixels: Image.Image  # RGB
    digest: bytes  # sha256 of its size and pixels, however it was given
    name: str  # what to call it in errors


def open_picture(image: ImageSource, role: str) -> Picture:
    """Decodes an image: turned by its EXIF tag, alpha over white, sRGB, first frame.

    Args:
      image: as `ImageSource`.
      role: name of the argument that it was given as, for errors.

    Raises:
      ImageError: there is no such file, or it cannot be read or used; its name is told.
      TypeError: it is nothing that could be an image.
    """
    name, pixels = _opened(image, role)
    check_sides(pixels.height, pixels.width, name)
    digest = hashlib.sha256(f"{pixels.width}x{pixels.height}:".encode() + pixels.tobytes())
    return Picture(pixels, digest.digest(), name)


def check_caption(caption: Any, images: Iterable[ImageSource]) -> str:
    """The caption, if it is one.

    Args:
      caption: what was given as one.
      images: given beside it. The disk is looked at for the caption only where one of them is a
        path: who sends files to a server shall not learn what is on its disk.

    Raises:
      TypeError: it is no text.
      ValueError: it is the path of an image, or no text that Unicode knows.
    """
    if not isinstance(caption, str):
        what = type(caption).__name__
        raise TypeError(f"caption: expected a text, got {what}; were caption and image exchanged?")
    if caption.lower().endswith(ENDINGS):
        paths = [os.fspath(image) for image in images if isinstance(image, str | os.PathLike)]
        places = ["", *(os.path.dirname(path) for path in paths)] if paths else []
        if any(os.path.isfile(os.path.join(place, caption)) for place in places):
            remedy = "pass the text that it is to show"
            raise ValueError(f"caption: {caption!r} is an image file; {remedy}")
    try:
        caption.encode()
    except UnicodeEncodeError as error:  # half of a character, as JSON's "\\ud83d" alone
        raise ValueError(f"caption: no text that Unicode knows ({error})") from None
    return caption


def _opened(image: ImageSource, role: str) -> tuple[str, Image.Image]:
    """What to call it, and its pixels."""
    if isinstance(image, str | os.PathLike):
        return f"{role} {os.fspath(image)!r}", _from_file(image, role)
    if isinstance(image, bytes | bytearray | memoryview):
        return role, open_rgb(bytes(image), role)[0]
    if isinstance(image, Image.Image):
        return role, to_rgb(image, role)
    if hasattr(image, "__array__"):
        return role, _from_array(np.asarray(image), role)
    raise TypeError(f"{role}: {type(image).__name__} is no image; {KINDS}")


def _from_file(path: str | os.PathLike, role: str) -> Image.Image:
    name = f"{role} {os.fspath(path)!r}"
    if not os.path.isfile(path):
        hint = "; if this is the caption, pass it as caption=" if isinstance(path, str) else ""
        remedy = KINDS + hint
        raise ImageError(name, "no such file", remedy)
    try:
        with open(path, "rb") as file:
            data = file.read()
    except OSError as error:
        raise ImageError(name, UNREADABLE, error.strerror or str(error)) from error
    return open_rgb(data, name)[0]


def _from_array(array: np.ndarray, role: str) -> Image.Image:
    gray = array.ndim == 2
    if array.dtype != np.uint8 or not (gray or (array.ndim == 3 and array.shape[2] in (3, 4))):
        what = f"an array of {array.dtype} and shape {list(array.shape)}"
        remedy = "give uint8 from 0 to 255, of shape [H, W, 3], [H, W, 4] or [H, W]"
        raise ImageError(role, what, remedy)
    if 0 in array.shape:
        raise ImageError(role, "an array without pixels")
    return to_rgb(Image.fromarray(array), role)
