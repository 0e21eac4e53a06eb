"""Images as people hand them over."""

import io

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from lrt_jax.data.images import ImageError
from lrt_jax.inference.pictures import check_caption, open_picture

PIXELS = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)


def png(pixels: np.ndarray = PIXELS) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def test_a_picture_is_the_same_however_it_is_given(tmp_path):
    path = tmp_path / "image.png"
    path.write_bytes(png())
    given = [path, str(path), png(), bytearray(png()), Image.open(path), PIXELS, jnp.array(PIXELS)]
    pictures = [open_picture(image, "first") for image in given]
    assert len({picture.digest for picture in pictures}) == 1
    for picture in pictures:
        np.testing.assert_array_equal(picture.pixels, PIXELS)
    assert open_picture(PIXELS.reshape(60, 40, 3), "first").digest != pictures[0].digest


def test_transparency_is_put_over_white_and_gray_is_gray():
    clear = np.dstack([PIXELS, np.zeros(PIXELS.shape[:2], np.uint8)])
    for image in (clear, Image.fromarray(clear), png(clear)):
        assert np.all(np.asarray(open_picture(image, "first").pixels) == 255)
    gray = PIXELS[..., 0]
    shown = np.asarray(open_picture(gray, "first").pixels)
    np.testing.assert_array_equal(shown, np.repeat(gray[..., None], 3, axis=2))


def test_a_pil_image_is_turned_as_its_file_says_and_left_alone():
    image = Image.fromarray(PIXELS)
    image.getexif()[0x0112] = 6
    file = io.BytesIO()
    image.save(file, "JPEG", exif=image.getexif())
    opened = Image.open(file)
    picture = open_picture(opened, "first")
    assert picture.pixels.size == (40, 60) and opened.size == (60, 40)
    assert picture.digest == open_picture(file.getvalue(), "first").digest


@pytest.mark.parametrize(
    "image, told",
    [
        ("a red circle", r"first 'a red circle': no such file .*pass it as caption="),
        (b"", "first: empty file"),
        (b"no image", "first: not an image"),
        (png()[:100], "first: truncated or corrupt"),
        (PIXELS / 255, r"first: an array of float64 and shape \[40, 60, 3\] \(give uint8"),
        (PIXELS.transpose(2, 0, 1), r"first: an array of uint8 and shape \[3, 40, 60\]"),
        (PIXELS[:0], "first: an array without pixels"),
        (PIXELS[:4], "first: smaller than one patch"),
        (Image.new("F", (20, 20)), "first: pixels without bounds"),
    ],
)
def test_what_is_wrong_with_an_image_is_told_with_its_name(image, told):
    with pytest.raises(ImageError, match=told):
        open_picture(image, "first")


@pytest.mark.parametrize("image", [None, 3, ["a.png"], {"path": "a.png"}])
def test_what_cannot_be_an_image_is_told(image):
    with pytest.raises(TypeError, match="second: .* is no image; an image is a path"):
        open_picture(image, "second")


def test_a_file_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    path = tmp_path / "image.png"
    path.write_bytes(png())

    def refuses(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("lrt_jax.inference.pictures.open", refuses, raising=False)
    with pytest.raises(ImageError, match="image.png': cannot be read .Permission denied"):
        open_picture(path, "first")


def test_an_image_in_the_place_of_a_caption_is_told(tmp_path):
    path = tmp_path / "image.png"
    path.write_bytes(png())
    for image in (PIXELS, Image.fromarray(PIXELS), png(), path):
        with pytest.raises(TypeError, match="caption: expected a text, got"):
            check_caption(image, [PIXELS])
    with pytest.raises(ValueError, match="is an image file"):
        check_caption(str(path), [PIXELS, path])
    assert check_caption(str(path), [PIXELS, png()]) == str(path)  # as a server's, which tells none
    with pytest.raises(ValueError, match="is an image file"):  # beside the image
        check_caption(path.name, [path])
    assert check_caption("a picture of image.png", [path]) == "a picture of image.png"
