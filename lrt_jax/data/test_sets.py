"""Test sets that training data must not have seen: which there are, and what of them is at hand."""

import dataclasses
import itertools
import json
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8, UInt64

from lrt_jax.data.likeness import near_captions, normalise, taken_pictures
from lrt_jax.data.schema import PairRecord
from lrt_jax.data.tables import PreparedSet

KNOWN = "test_sets.json"  # among the assets
SHOWN = 100  # near captions of a test set that a report lists


@dataclasses.dataclass(frozen=True)
class TestSet:
    """Captions and pictures that must stay out of training.

    Attributes:
      name: for reports.
      source: of the prepared set.
      digest: of the prepared set.
      captions: different ones, as published.
      hashes: perceptual hashes of its images.
      thumbs: their thumbnails.
    """

    __test__ = False  # pytest takes the name for its own

    name: str
    source: str
    digest: str
    captions: tuple[str, ...]
    hashes: UInt64[np.ndarray, " n"]
    thumbs: UInt8[np.ndarray, "n 8 8 3"]


@dataclasses.dataclass(frozen=True)
class Leaks:
    """What of a data set is near a test set.

    Attributes:
      captions: normalised captions that are near one of its captions: that one, and the cosine.
      images: digests of pictures that are near one of its pictures.
    """

    captions: Mapping[str, tuple[str, float]]
    images: frozenset[str]

    def hit(self, caption: str, images: Sequence[str]) -> bool:
        """Whether a pair must go."""
        return normalise(caption) in self.captions or not self.images.isdisjoint(images)


def is_test(split: str) -> bool:
    """Whether a split is for testing, by its name."""
    return split.startswith("test")


def known_test_sets() -> list[dict[str, Any]]:
    """The public test sets: source, split, and number of captions, where that is known."""
    return json.loads((resources.files("lrt_jax.assets") / KNOWN).read_text())


def open_test_sets(folders: Sequence[str | Path]) -> list[TestSet]:
    """Test sets, each the test splits of a prepared set, or all of one that has none.

    Raises:
      FileNotFoundError: a folder is no prepared set.
      ValueError: it was prepared in another version's layout.
    """
    found: dict[str, TestSet] = {}
    for test_set in (_of_prepared(PreparedSet(folder)) for folder in folders):
        name = test_set.name
        while name in found and found[name].digest != test_set.digest:
            name += " and another"
        found[name] = dataclasses.replace(test_set, name=name)
    return list(found.values())


def _of_prepared(prepared: PreparedSet) -> TestSet:
    names = [name for name in prepared.splits if is_test(name)] or list(prepared.splits)
    rows = np.concatenate([np.asarray(prepared.rows(name), np.int64) for name in names])
    images = np.unique(prepared.pair_images[rows])
    hashes, thumbs = prepared.looks
    return TestSet(
        name=f"{prepared.report['source']} ({', '.join(names)})",
        source=prepared.report["source"],
        digest=prepared.fingerprint,
        captions=tuple(prepared.captions(rows)),
        hashes=hashes[images],
        thumbs=thumbs[images],
    )


def find_leaks(
    test_set: TestSet,
    captions: Sequence[str],
    digests: Sequence[str],
    hashes: UInt64[np.ndarray, " n"],
    thumbs: UInt8[np.ndarray, "n 8 8 3"],
) -> Leaks:
    """What of some captions and pictures is near a test set.

    Args:
      test_set: to compare with.
      captions: to look at.
      digests: of the pictures.
      hashes: of the pictures.
      thumbs: of the pictures.
    """
    texts = list(dict.fromkeys(map(normalise, captions)))
    theirs = dict(zip(map(normalise, test_set.captions), test_set.captions, strict=True))
    near = near_captions(texts, list(theirs)) if texts and theirs else {}
    named = list(theirs.values())
    taken = taken_pictures(hashes, thumbs, test_set.hashes, test_set.thumbs)
    return Leaks(
        captions={texts[i]: (named[j], cosine) for i, (j, cosine) in sorted(near.items())},
        images=frozenset(itertools.compress(digests, taken)),
    )


def leak_report(leaks: Leaks, pairs: Sequence[PairRecord], left_out: int) -> dict[str, Any]:
    """What `build_report.json` says of a test set.

    Args:
      leaks: what is near it.
      pairs: that were looked at.
      left_out: how many of them were.
    """
    captions = dict.fromkeys(p.prompt for p in pairs if normalise(p.prompt) in leaks.captions)
    listed = [(text, *leaks.captions[normalise(text)]) for text in captions][:SHOWN]
    return {
        "captions": len(captions),
        "images": len(leaks.images),
        "pairs": left_out,
        "near": [{"caption": a, "test": b, "cosine": round(c, 3)} for a, b, c in listed],
    }
