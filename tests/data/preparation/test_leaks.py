"""Of a stored pair, the models get pixels and caption, and nothing that goes with them."""

import dataclasses
import io

import numpy as np
import pytest
from PIL import Image

from lrt_jax.assets import tiny_model
from lrt_jax.data.input.pairs import PairEncoder, RawPair
from lrt_jax.data.input.patches import read_image_policy
from lrt_jax.data.input.prompts import PromptEncoder
from lrt_jax.data.input.tokenizer import load_tokenizer
from lrt_jax.data.schema import SECOND, stack
from lrt_jax.models.qwen2_5_vl.config import read_config
from tests.data.input.test_pipeline import assert_equal, record
from tests.data.test_images import noise

PIXELS = noise(90, 120, 1), noise(200, 60, 2)
VARIANTS = {
    "names": {"uid": "secret/train/9/1-0", "source": "secret", "split": "hidden", "group_id": "9"},
    "generators": {"generator": ("strong", "weak")},
    "places": {"image_index": (70, 3), "cluster": 12, "rank": (4.0, 1.0)},
}


@pytest.fixture(scope="module", params=[True, False], ids=["one grid", "own grids"])
def encoder(request):
    folder = tiny_model()
    config, tokenizer = read_config(folder), load_tokenizer(folder)
    prompts = [PromptEncoder(tokenizer, config, style, 192, 64) for style in ("reason", "judge")]
    policy = read_image_policy(folder, config.vision, 64, request.param)
    return PairEncoder(policy, config.vision, prompts[0], (prompts[1],))


def file(pixels, format="PNG", **options):
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, format, **options)
    return data.getvalue()


def pair(container=file, keys=("a", "b"), row=3, **fields):
    return RawPair(row, record(**fields), tuple(map(container, PIXELS)), keys)


def described(pixels):
    """With the camera's own description of the picture; its orientation is upright."""
    exif = Image.Exif()
    exif.update({0x0110: "Generator 5", 0x010E: "the better one", 0x0112: 1})
    return file(pixels, exif=exif)


@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize(
    "variant",
    [
        *(pytest.param(pair(**fields), id=name) for name, fields in VARIANTS.items()),
        pytest.param(pair(lambda x: file(x, "WEBP", lossless=True)), id="container"),
        pytest.param(pair(lambda x: file(x, compress_level=0)), id="size of the file"),
        pytest.param(pair(described), id="metadata"),
        pytest.param(pair(keys=("best", "worst")), id="keys"),
    ],
)
def test_what_goes_with_a_pair_changes_no_bit(encoder, variant, swapped):
    plain, other = (stack([encoder.encode(x, swapped)]) for x in (pair(), variant))
    assert variant != pair()
    assert_equal(plain, other)


@pytest.mark.parametrize("swapped", [False, True])
def test_votes_and_row_stay_in_the_target(encoder, swapped):
    other = pair(row=8, votes=(0.0, 9.0), label=SECOND, p_first=0.05)
    plain, other = (stack([encoder.encode(x, swapped)]) for x in (pair(), other))
    assert plain.target.pair != other.target.pair and plain.target.label != other.target.label
    assert_equal(plain.replace(target=None), other.replace(target=None))


def test_one_grid_hides_the_native_size(encoder):
    """Token counts of the two images are the same, whatever their sizes were."""
    batch = stack([encoder.encode(pair(), False)])
    counts = (batch.images.window[0] >= 0).sum(axis=1)
    assert (counts[0] == counts[1]) == encoder.policy.one_grid
    if encoder.policy.one_grid:
        turned = dataclasses.replace(pair(), images=pair().images[::-1])
        other = stack([encoder.encode(turned, False)])
        assert_equal(batch.prompt, other.prompt)
        np.testing.assert_array_equal(batch.images.patches, other.images.patches[:, ::-1])
        for where in (batch.images.coords, batch.images.window):
            np.testing.assert_array_equal(where[:, 0], where[:, 1])
