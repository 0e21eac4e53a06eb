"""What counts as the same picture, and as nearly the same caption."""

import io
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from benchmarks.likeness import plain_pictures
from lrt_jax.data.captions import normalise
from lrt_jax.data.images import decode, perceptual_hash
from lrt_jax.data.preparation import near_duplicates
from lrt_jax.data.preparation.near_duplicates import (
    caption_clusters,
    near_captions,
    same_pictures,
    taken_pictures,
    thumbnail,
)


def landscape(seed: int, size: int = 128) -> np.ndarray:
    """Something with large and small shapes, as photographs have."""
    rng = np.random.default_rng(seed)
    image = np.zeros((size, size, 3))
    for cells in (3, 6, 12, 24):
        coarse = Image.fromarray(rng.integers(0, 256, (cells, cells, 3), np.uint8))
        image += np.asarray(coarse.resize((size, size), Image.Resampling.BICUBIC)) / cells
    return (255 * image / image.max()).astype(np.uint8)


def looks(images):
    hashes = np.array([perceptual_hash(image) for image in images], np.uint64)
    return hashes, np.stack([thumbnail(image) for image in images])


def encoded(image, kind, **options):
    file = io.BytesIO()
    Image.fromarray(image).save(file, kind, **options)
    return decode(file.getvalue(), kind)


def resized(image, factor):
    height, width = (int(side * factor) for side in image.shape[:2])
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC))


def cropped(image, share):
    height, width = (int(side * share / 2) for side in image.shape[:2])
    return np.ascontiguousarray(image[height : -height or None, width : -width or None])


COPIES = {
    "JPEG at quality 30": lambda image: encoded(image, "JPEG", quality=30),
    "WebP": lambda image: encoded(image, "WEBP", quality=70),
    "half the size": lambda image: resized(image, 0.5),
    "twice the size": lambda image: resized(image, 2),
    "small and in JPEG": lambda image: encoded(resized(image, 0.5), "JPEG", quality=50),
}


@pytest.mark.parametrize("kind", COPIES)
def test_copies_are_the_same_picture_and_others_are_not(kind):
    originals = [landscape(seed) for seed in range(30)]
    images = originals + [COPIES[kind](image) for image in originals[:15]]
    assert same_pictures(*looks(images)).tolist() == [*range(30), *range(15)]


def test_test_pictures_are_found_encoded_resized_and_cropped_a_little(real_data):
    files = sorted((real_data / "hpd_gallery" / "images").glob("*.jpg"))[::9]
    originals = [decode(file.read_bytes(), file.name) for file in files]
    test = looks(originals[:25])
    for copy in COPIES.values():
        assert taken_pictures(*looks([copy(image) for image in originals[:25]]), *test).all()
    found = taken_pictures(*looks([cropped(image, 0.05) for image in originals[:25]]), *test)
    assert found.mean() > 0.9  # by 2.5 % on each side
    assert not taken_pictures(*looks(originals[25:]), *test).any()


def test_no_two_pictures_of_the_gallery_are_one(real_data):
    files = sorted((real_data / "hpd_gallery" / "images").glob("*.jpg"))
    images = [decode(file.read_bytes(), file.name) for file in files]
    assert len(np.unique(same_pictures(*looks(images)))) == 675


PLAIN_COPIES = {
    **{f"JPEG at quality {q}": ("JPEG", {"quality": q}) for q in (50, 75, 95)},
    **{f"WebP at quality {q}": ("WEBP", {"quality": q}) for q in (50, 90)},
    "PNG": ("PNG", {}),
    **{f"{factor} times the size": factor for factor in (0.5, 0.75, 2)},
}


@pytest.mark.parametrize("kind", PLAIN_COPIES)
def test_copies_of_flags_stripes_and_gradients_are_found(kind):
    """Of most frequencies of such there is nothing but what the encoding left."""
    how, originals = PLAIN_COPIES[kind], list(plain_pictures().values())
    copies = [
        encoded(image, how[0], **how[1]) if isinstance(how, tuple) else resized(image, how)
        for image in originals
    ]
    assert same_pictures(*looks(originals + copies)).tolist() == 2 * [*range(len(originals))]
    assert all(
        taken_pictures(*looks([copy]), *looks([image])).item()
        for copy, image in zip(copies, originals, strict=True)
    )


def test_gentle_gradients_of_many_directions_are_different_pictures():
    y, x = np.mgrid[:64, :64] / 63
    shares = [np.cos(a) * x + np.sin(a) * y for a in np.linspace(0, np.pi / 2, 4)]
    images = [(150 + 20 * share).astype(np.uint8)[..., None].repeat(3, -1) for share in shares]
    assert len(np.unique(same_pictures(*looks(images)))) == len(images)


@pytest.mark.parametrize("seed", range(5))
def test_no_connection_is_lost_where_pictures_are_compared_once(seed, monkeypatch):
    """Against comparing all with all."""
    monkeypatch.setattr(near_duplicates, "BLOCK", 16)
    monkeypatch.setattr(near_duplicates, "HITS", 50)
    rng = np.random.default_rng(seed)
    flips = (rng.random((120, 64)) < 0.08) @ (1 << np.arange(64, dtype=np.uint64))
    hashes = rng.integers(0, 2**64, 3, np.uint64)[rng.integers(0, 3, 120)] ^ flips
    thumbs = np.full((120, 8, 8, 3), rng.integers(0, 12, (120, 1, 1, 1)), np.uint8)
    near = np.bitwise_count(hashes[:, None] ^ hashes) <= near_duplicates.SAME[0]
    near &= (
        abs(thumbs[:, None, 0, 0, 0] - thumbs[:, 0, 0, 0].astype(int)) <= near_duplicates.SAME[1]
    )
    expected = near_duplicates._first_of_each(np.argwhere(near), 120)
    assert 10 < len(np.unique(expected)) < 110
    np.testing.assert_array_equal(same_pictures(hashes, thumbs), expected)


@given(st.lists(st.integers(0, 2**64 - 1), min_size=2, max_size=12), st.data())
@settings(deadline=None)
def test_bands_find_every_pair_of_near_hashes(hashes, data):
    flips = data.draw(st.sets(st.integers(0, 63), max_size=near_duplicates.SAME[0]))
    hashes.append(hashes[0] ^ sum(1 << bit for bit in flips))
    flat = np.zeros((len(hashes), 8, 8, 3), np.uint8)
    first = same_pictures(np.array(hashes, np.uint64), flat)
    assert first[-1] == first[0]


# ---------------------------------------------------------------------------- captions

TEST_CAPTIONS = [
    "a cat on a mat in front of the fireplace",
    "portrait of a violinist in the rain, oil on canvas",
    "an old tram climbs a steep street in Lisbon",
    "two robots play chess in a park at night",
]
REWRITES = {
    "case and punctuation": lambda text: text.upper().replace(" ", ", "),
    "a typing error": lambda text: text.replace("e", "", 1),
    "a word less": lambda text: " ".join(text.split()[:-1]),
    "words in another order": lambda text: " ".join(reversed(text.split())),
    "a style added": lambda text: f"{text}, highly detailed",
}


@pytest.mark.parametrize("kind", REWRITES)
def test_near_captions_are_found(kind):
    mine = [normalise(REWRITES[kind](text)) for text in TEST_CAPTIONS]
    found = near_captions([*mine, "green glass bottle"], list(map(normalise, TEST_CAPTIONS)))
    assert {i: j for i, (j, _) in found.items()} == {0: 0, 1: 1, 2: 2, 3: 3}


def test_clusters_are_transitive_and_named_by_their_first():
    captions = ["a dog runs on the long beach", "paper lanterns", "a dog runs on a long beach"]
    assert caption_clusters(captions).tolist() == [0, 1, 0]


def test_every_pair_of_near_captions_is_found(real_data):
    records = json.loads((real_data / "imagereward_test" / "test.json").read_text())
    captions = list(dict.fromkeys(normalise(record["prompt"]) for record in records))
    vectors = near_duplicates._vectors(captions)
    cosines = (vectors @ vectors.T).toarray()
    for least in (0.6, 0.8):
        parts = [np.stack(x[:2], axis=1) for x in near_duplicates._near(vectors, vectors, least)]
        found = set(map(tuple, np.concatenate(parts).tolist()))
        assert found == set(zip(*map(np.ndarray.tolist, np.nonzero(cosines >= least)), strict=True))
