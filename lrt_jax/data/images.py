"""Image files to patches, as transformers' Qwen2-VL processor makes them, but uint8 and one frame.

A still image shows the same frame twice and every model normalises alike, so the host sends the raw
bytes of one frame, 1/8 of the processor's float32 pair, and the device does the rest.
"""

import dataclasses
import functools
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import UInt8
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from lrt_jax.data.colour_profiles import to_srgb
from lrt_jax.models.inputs import Images
from lrt_jax.models.qwen2_5_vl.config import IMAGE_MEAN, IMAGE_STD, VisionConfig
from lrt_jax.models.qwen2_5_vl.positions import Grid, WindowOrder, window_order
from lrt_jax.storage.disk import read_fields, read_plainly

if TYPE_CHECKING:
    from transformers import Qwen2VLImageProcessorPil

REMEDY = "copy the image processor's files of the checkpoint"
OWN_CONFIG, ALL_CONFIGS = "preprocessor_config.json", "processor_config.json"
MAX_PIXELS = (
    89_478_485  # Pillow's own bound for decompression bombs; it only warns up to twice this
)
MAX_ASPECT = 200  # of the longer to the shorter side; beyond it the models were never trained
ROUNDING = 1e-6  # of the means of two images' sides, whose ratio may be a hair over the bound
MIN_SIDE = 14  # pixels; a patch of Qwen2.5-VL
UNREADABLE = "cannot be read"  # a reason of an ImageError that may pass
PADDING_WINDOW = -1
TIERS = (256, 576, 1024, 2304)  # patches per image: squares of 224, 336, 448 and 672 pixels
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
NEUTRAL = tuple(round(255 * mean) for mean in IMAGE_MEAN)  # of the bars beside an image: about 0
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


@dataclasses.dataclass(frozen=True)
class ImagePolicy:
    """How images are brought to size and normalised; a checkpoint's own, within a patch budget."""

    min_pixels: int
    max_pixels: int  # already within max_patches
    max_patches: int  # static patches per image, padding included
    one_grid: bool = True  # both images of a pair, so that tokens do not tell their native sizes


def read_image_policy(
    model_folder: str | Path, max_patches: int, one_grid: bool = True
) -> ImagePolicy:
    """Reads a checkpoint's image processor, in the hub's or in the nested v5 layout.

    Raises:
      FileNotFoundError: the folder has neither preprocessor_config.json nor processor_config.json.
      ValueError: a budget below the checkpoint's smallest image, a processor that does not
        resize bicubically, scale by 1/255 and normalise, or a file without fields.
    """
    from transformers import Qwen2VLImageProcessorPil  # 3 s, which workers save

    folder = Path(model_folder)
    _check_fields(folder)
    with read_plainly(folder, REMEDY):
        processor = Qwen2VLImageProcessorPil.from_pretrained(folder)
        _check_processor(processor, folder)
    smallest = int(processor.size["shortest_edge"])
    budget = max_patches * processor.patch_size**2
    if budget < smallest:
        raise ValueError(
            f"max_patches={max_patches} is {budget} pixels, but {folder} enlarges every image to "
            f"at least {smallest}: allow {-(-smallest // processor.patch_size**2)} patches or more"
        )
    return ImagePolicy(
        min_pixels=smallest,
        max_pixels=min(int(processor.size["longest_edge"]), budget),
        max_patches=max_patches,
        one_grid=one_grid,
    )


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
    if not data:
        raise ImageError(name, "empty file")
    try:
        with Image.open(io.BytesIO(data), formats=_formats()) as image:
            _check_kind(image, name)
            _scale_transparent_gray(image)
            changes = tuple(_changes(image))
            ImageOps.exif_transpose(image, in_place=True)
            rgb, change = _converted(image)
            rgb.load()
            return rgb, changes + (change,) * bool(change)
    except ImageError:
        raise
    except Image.DecompressionBombError as error:
        raise ImageError(name, "too many pixels", str(error)) from error
    except UnidentifiedImageError as error:
        kinds = f"none of {', '.join(FORMATS)} that Pillow can read"
        raise ImageError(name, "not an image", kinds) from error
    except Exception as error:  # Pillow's plugins raise whatever their parsers do
        raise ImageError(name, "truncated or corrupt image", str(error)) from error


@functools.cache
def _formats() -> tuple[str, ...]:
    """Those of `FORMATS` that Pillow was built with."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _check_kind(image: Image.Image, name: str) -> None:
    """Raises ImageError for an opened file whose pixels are too many, or cannot be told rightly."""
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
    return any(mode in str(tile[3]) for tile in image.tile)


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


# ---------------------------------------------------------------------------- pixels to patches


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


def to_patches(
    image: Pixels,
    policy: ImagePolicy,
    vision: VisionConfig,
    name: str = "image",
    grid: Grid | None = None,
) -> tuple[UInt8[np.ndarray, "n d"], Grid]:
    """Resizes an image and cuts it into patches, in merge order: the processor's own.

    Within a grid of another aspect it keeps its own, between bars; see `is_letterboxed`.

    Args:
      image: pixels.
      policy: how it is brought to size.
      vision: patch and window sizes.
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
    fit = _between_bars if is_letterboxed(height, width, grid, policy, vision) else _stretched
    return patchify(np.asarray(fit(as_image(image), size)), vision), grid


def is_letterboxed(
    height: int, width: int, grid: Grid, policy: ImagePolicy, vision: VisionConfig
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


def _between_bars(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """As large as it can be within width and height, in the middle."""
    scale = min(room / side for room, side in zip(size, image.size, strict=True))
    inner = tuple(max(1, round(side * scale)) for side in image.size)
    shown = Image.new("RGB", size, NEUTRAL)
    corner = tuple((room - side) // 2 for room, side in zip(size, inner, strict=True))
    shown.paste(_stretched(image, inner), corner)
    return shown


def encoded_size(height: float, width: float, policy: ImagePolicy, vision: VisionConfig) -> Grid:
    """Grid of patches, rows and columns, of an image of so many pixels.

    Where the processor itself exceeds its bound, for images far longer than wide, the longer side
    is squeezed into the patch budget.
    """
    factor = vision.patch_size * vision.merge_size
    size = smart_resize(height, width, factor, policy.min_pixels, policy.max_pixels)
    most = policy.max_patches // vision.merge_unit * factor // min(size) * factor
    rows, columns = (min(side, most) // vision.patch_size for side in size)
    return rows, columns


def pair_grids(
    first: tuple[int, int], second: tuple[int, int], policy: ImagePolicy, vision: VisionConfig
) -> tuple[Grid, Grid]:
    """Grids of the two images of a pair, whichever of them is shown first.

    With `one_grid` both get that of an image of the geometric mean height and width. It follows
    from the products of the heights and of the widths alone, so that it tells nothing of either; an
    image of another aspect is letterboxed (see `to_patches`).

    Args:
      first: height and width in pixels.
      second: the same of the other.
      policy: of the images.
      vision: patch and window sizes.
    """
    if policy.one_grid:
        height, width = (math.sqrt(a * b) for a, b in zip(first, second, strict=True))
        grid = encoded_size(height, width, policy, vision)
        return grid, grid
    one, other = (encoded_size(*size, policy, vision) for size in (first, second))
    return one, other


def patchify(image: UInt8[np.ndarray, "H W 3"], vision: VisionConfig) -> UInt8[np.ndarray, "n d"]:
    """Cuts an image into patches; those of a merged token follow one another."""
    patch, merge = vision.patch_size, vision.merge_size
    rows, cols = (side // (patch * merge) for side in image.shape[:2])
    blocks = image.reshape(rows, merge, patch, cols, merge, patch, vision.in_channels)
    return blocks.transpose(0, 3, 1, 4, 6, 2, 5).reshape(-1, vision.patch_dim)


@functools.lru_cache(maxsize=512)
def order_of(grid: Grid, vision: VisionConfig) -> WindowOrder:
    """`window_order`, kept: most images have one of a few grids. Not to be written to."""
    order = window_order(grid, vision)
    for array in order:
        array.setflags(write=False)
    return order


def encode_images(
    images: Sequence[Pixels],
    policy: ImagePolicy,
    vision: VisionConfig,
    names: Sequence[str] | None = None,
    grids: Sequence[Grid] | None = None,
) -> tuple[Images, tuple[Grid, ...]]:
    """Patches of several images in window order, each padded to `policy.max_patches`.

    Args:
      images: pixels of each.
      policy: how they are brought to size.
      vision: patch and window sizes.
      names: what to call them in errors.
      grids: of each image; None for those of their own sizes.

    Returns:
      Unbatched `Images` of NumPy arrays, leading axis the image, and the images' grids.

    Raises:
      ImageError: see `to_patches`.
      ValueError: a patch budget that is not a multiple of the attention window.
    """
    if policy.max_patches % vision.window_patches:
        raise ValueError(
            f"max_patches={policy.max_patches} is not a multiple of the {vision.window_patches} "
            "patches of an attention window"
        )
    count, budget = len(images), policy.max_patches
    patches = np.zeros((count, budget, vision.patch_dim), np.uint8)
    coords = np.zeros((count, budget, 2), np.int32)
    window = np.full((count, budget), PADDING_WINDOW, np.int32)
    shown = []
    for i, image in enumerate(images):
        name = names[i] if names else f"image {i}"
        cut, grid = to_patches(image, policy, vision, name, grids[i] if grids else None)
        order = order_of(grid, vision)
        n = len(cut)
        # "clip" writes straight into its place; the default goes through a buffer.
        np.take(cut, order.patches, axis=0, out=patches[i, :n], mode="clip")
        coords[i, :n], window[i, :n] = order.coords, order.window
        shown.append(grid)
    return Images(patches=patches, coords=coords, window=window), tuple(shown)


def encode_pair(
    first: Pixels,
    second: Pixels,
    policy: ImagePolicy,
    vision: VisionConfig,
    names: tuple[str, str] | None = None,
) -> tuple[Images, tuple[Grid, Grid]]:
    """`encode_images` of the two images of a pair, as they are shown, at their `pair_grids`."""
    for image, name in zip((first, second), names or ("image 0", "image 1"), strict=True):
        check_aspect(*sides(image), name)
    grids = pair_grids(sides(first), sides(second), policy, vision)
    return encode_images((first, second), policy, vision, names, grids)


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
