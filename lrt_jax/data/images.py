"""Image files to pixels, and facts about them."""

import contextlib
import functools
import io
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from lrt_jax.data.colour_profiles import to_srgb

# Pillow's own bound for decompression bombs; it only warns up to twice this.
MAX_PIXELS = 89_478_485
MAX_ASPECT = 200  # of the longer to the shorter side; beyond it the models were never trained
MIN_SIDE = 14  # pixels; a patch of the models that there are
TIERS = (256, 576, 1024, 2304)  # patches per image: squares of 224, 336, 448 and 672 pixels
UNREADABLE = "cannot be read"  # a reason of an ImageError that may pass
STEPS_UP = {"L;2": 85, "L;4": 17}  # of 8 bits for one of a raw mode of gray
STEPS_DOWN = {12: 16, 16: 257}  # of as many bits for one of 8
WHITE_IS_ZERO = 0  # a TIFF file's photometric interpretation; Pillow turns that of 8 bits alone
PART = 2**20  # pixels of a large image that are converted at a time
FAINT = 200.0  # of a cosine transform of 32x32 pixels: a wave of a fifth of a gray level
# Of files, as Pillow calls them; what phones call MPO begins as a JPEG and is opened as one. No
# others: Pillow starts programs for some, such as Ghostscript for EPS, whatever the file's name is.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
# Pillow's modes whose numbers have no bounds, so that nobody can say which of them is white.
UNBOUNDED = {"I": "numbers of 32 bits or with signs", "F": "floating-point numbers"}
CONVERTED = {  # Pillow's modes, but for RGB with and without transparency
    "1": "black and white",
    "L": "grayscale",
    "LA": "grayscale",
    "I": "16-bit grayscale",
    "I;12": "12-bit grayscale",
    "P": "palette",
    "CMYK": "CMYK",
    "YCbCr": "YCbCr",
    "LAB": "Lab",
}


Pixels = UInt8[np.ndarray, "H W 3"] | Image.Image  # the latter RGB


class ImageError(ValueError):
    """An image that cannot be used.

    Attributes:
      name: file name, or key, of the image.
      reason: a few words that are the same for all images of a kind, to count by.
    """

    def __init__(self, name: str, reason: str, detail: str = ""):
        super().__init__(name, reason, detail)  # the arguments, so that it survives pickling
        self.name, self.reason, self.detail = name, reason, detail

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}" + (f" ({self.detail})" if self.detail else "")


# ---------------------------------------------------------------------------- files to pixels


def decode(data: bytes, name: str) -> UInt8[np.ndarray, "H W 3"]:
    """The pixels of `open_rgb`."""
    return np.asarray(open_rgb(data, name)[0])


def open_rgb(data: bytes, name: str) -> tuple[Image.Image, tuple[str, ...]]:
    """Decodes an image file: turned by its EXIF tag, alpha over white, sRGB, first frame.

    An image without a colour profile is taken for sRGB, as is one whose profile cannot be used.

    Args:
      data: a whole image file.
      name: what to call it in errors.

    Returns:
      The image, and what was changed, in a few words that are the same for all images of a kind.

    Raises:
      ImageError: empty, not an image of one of `FORMATS`, truncated, more than `MAX_PIXELS`
        pixels, of numbers that have no bounds, or with a transparent colour of 16 bits a channel.
    """
    with _image_file(data, name) as image:
        return _rgb(image, name)


def file_sides(data: bytes, name: str) -> tuple[int, int]:
    """Height and width of an image file, before EXIF turns it; its pixels are not decoded.

    Args:
      data: a whole image file.
      name: what to call it in errors.

    Raises:
      ImageError: empty, or not an image of one of `FORMATS`.
    """
    with _image_file(data, name) as image:
        return image.height, image.width


@contextlib.contextmanager
def _image_file(data: bytes, name: str) -> Iterator[Image.Image]:
    """An opened file; whatever goes wrong with it is an ImageError."""
    if not data:
        raise ImageError(name, "empty file")
    try:
        with Image.open(io.BytesIO(data), formats=_formats()) as image:
            yield image
    except ImageError:
        raise
    except Image.DecompressionBombError as error:
        raise ImageError(name, "too many pixels", str(error)) from error
    except UnidentifiedImageError as error:
        kinds = f"none of {', '.join(FORMATS)} that Pillow can read"
        raise ImageError(name, "not an image", kinds) from error
    except Exception as error:  # Pillow's plugins raise whatever their parsers do
        raise ImageError(name, "truncated or corrupt image", str(error)) from error


def to_rgb(image: Image.Image, name: str) -> Image.Image:
    """What `open_rgb` makes of the file that a Pillow image is of; the image itself is left alone.

    Raises:
      ImageError: see `open_rgb`.
    """
    try:
        return _rgb(image.copy(), name)[0]
    except ImageError:
        raise
    except Exception as error:  # a file is read when its pixels are first asked for
        raise ImageError(name, "truncated or corrupt image", str(error)) from error


def _rgb(image: Image.Image, name: str) -> tuple[Image.Image, tuple[str, ...]]:
    _check_kind(image, name)
    _scale_transparent_gray(image)
    changes = tuple(_changes(image))
    ImageOps.exif_transpose(image, in_place=True)
    rgb, change = _converted(image)
    rgb.load()
    return rgb, changes + (change,) * bool(change)


@functools.cache
def _formats() -> tuple[str, ...]:
    """Those of `FORMATS` that Pillow was built with."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _check_kind(image: Image.Image, name: str) -> None:
    """Raises ImageError for an opened file whose pixels are too many, or ambiguous."""
    if image.width * image.height > MAX_PIXELS:
        raise ImageError(name, "too many pixels", f"{image.width}x{image.height}")
    if image.mode in UNBOUNDED:
        what = f"{UNBOUNDED[image.mode]}; save it with 8 or 16 bits a channel"
        raise ImageError(name, "pixels without bounds", what)
    # Pillow gives the upper halves of the pixels' numbers alone, and so others may look like it.
    if "transparency" in image.info and _is_stored_as("RGB;16", image):
        what = "save it with 8 bits a channel, or with an alpha channel"
        raise ImageError(name, "transparent colour of 16 bits a channel", what)


def _is_stored_as(mode: str, image: Image.Image) -> bool:
    """Whether a file that is not loaded yet has pixels of one of Pillow's raw modes."""
    tiles = getattr(image, "tile", ())  # of a file alone
    return any(mode in str(tile[3]) for tile in tiles)


def _scale_transparent_gray(image: Image.Image) -> None:
    """Does to a transparent gray of 2 or 4 bits what Pillow does to the pixels."""
    for mode, step in STEPS_UP.items():
        if "transparency" in image.info and _is_stored_as(mode, image):
            image.info["transparency"] *= step


def _changes(image: Image.Image) -> Iterator[str]:
    # First, since a PNG's EXIF is known only once it is loaded, and how it was stored no longer.
    of_twelve_bits = _is_stored_as("I;12", image)
    if not image.mode.startswith("I") and _is_stored_as("16", image):
        yield "16 bits a channel made 8"
    if image.getexif().get(ExifTags.Base.Orientation, 1) in range(2, 9):
        yield "turned as EXIF says"
    if getattr(image, "n_frames", 1) > 1:
        yield "first of several frames"
    if image.has_transparency_data:
        yield "transparency put over white"
    if kind := CONVERTED.get("I;12" if of_twelve_bits else image.mode.partition(";")[0]):
        yield f"{kind} made RGB"


def _converted(image: Image.Image) -> tuple[Image.Image, str]:
    """`_convert` of a large image part by part, as each of its steps copies what it is given."""
    tags = getattr(image, "tag_v2", {})  # of a TIFF file alone
    if image.width * image.height <= PART:
        return _convert(image, tags)
    whole = Image.new("RGB", image.size, None)
    for box in _boxes(*image.size):
        part = image.crop(box)
        rgb, change = _convert(part, tags)
        if rgb is part:  # nothing is to be done, here or anywhere else in the image
            return image, change
        whole.paste(rgb, box)
    return whole, change


def _boxes(width: int, height: int) -> Iterator[tuple[int, int, int, int]]:
    """Of the parts of an image, at most `PART` pixels each; whole rows unless they are longer."""
    across = min(width, PART)
    down = PART // across
    for top in range(0, height, down):
        for left in range(0, width, across):
            yield left, top, min(left + across, width), min(top + down, height)


def _convert(image: Image.Image, tags: Mapping[int, Any]) -> tuple[Image.Image, str]:
    """Brings an image to 8 bits, to sRGB and over white; with what was done about a profile."""
    eight_bits, change = _to_eight_bits(image, tags), ""
    if "icc_profile" in image.info:
        eight_bits, change = to_srgb(eight_bits, image.info["icc_profile"])
    return _to_rgb(eight_bits), change


def _to_eight_bits(image: Image.Image, tags: Mapping[int, Any]) -> Image.Image:
    """Gray of 12 or 16 bits, which Pillow would clip instead of scale, is scaled."""
    if not image.mode.startswith("I"):
        return image
    levels = np.asarray(image)
    bits = tags.get(ExifTags.Base.BitsPerSample, (16,))[0]
    if tags.get(ExifTags.Base.PhotometricInterpretation) == WHITE_IS_ZERO:
        levels = 2**bits - 1 - levels
    gray = Image.fromarray((levels // STEPS_DOWN[bits]).astype(np.uint8))
    if "transparency" in image.info:
        gray.putalpha(Image.fromarray(np.uint8(255) * (levels != image.info["transparency"])))
    return gray


def _to_rgb(image: Image.Image) -> Image.Image:
    if not image.has_transparency_data:
        return image if image.mode == "RGB" else image.convert("RGB")
    image = image.convert("RGBA")
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image).convert("RGB")


# ---------------------------------------------------------------------------- pixels


def sides(image: Pixels) -> tuple[int, int]:
    """Height and width."""
    return image.shape[:2] if isinstance(image, np.ndarray) else image.size[::-1]


def as_image(image: Pixels) -> Image.Image:
    """Pillow's own; an array is copied."""
    return Image.fromarray(image) if isinstance(image, np.ndarray) else image


def check_sides(height: int, width: int, name: str) -> None:
    """Raises ImageError for an image that data should not hold: see `check_aspect`, or a dot.

    Models enlarge what is small, but below a patch there is nothing to enlarge.
    """
    if min(height, width) < MIN_SIDE:
        raise ImageError(name, "smaller than one patch", f"{width}x{height} pixels")
    check_aspect(height, width, name)


def check_aspect(height: int, width: int, name: str) -> None:
    """Raises ImageError for an image whose sides differ by more than `MAX_ASPECT`."""
    if max(height, width) > MAX_ASPECT * min(height, width):
        raise ImageError(name, f"aspect ratio over {MAX_ASPECT}", f"{width}x{height} pixels")


def perceptual_hash(image: Pixels) -> int:
    """64 bits that change little when an image is resized or recompressed.

    Which of the 8x8 lowest frequencies of the cosine transform of a 32x32 grayscale copy are above
    their median (Zauner, "Implementation and Benchmarking of Perceptual Image Hash Functions",
    2010), by more than `FAINT`: of a picture with little in it, as a flag, most are nearly 0, and
    which of those are above it every encoding decides anew.
    """
    from scipy.fft import dctn

    small = as_image(image).convert("L").resize((32, 32), Image.Resampling.LANCZOS)
    low = dctn(np.asarray(small, np.float64))[:8, :8].ravel()
    bits = np.packbits(low > np.median(low) + FAINT)
    return int.from_bytes(bits.tobytes(), "big")
