"""Test sets that training data must not have seen: which there are, and what of them is at hand."""

import dataclasses
import itertools
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8, UInt64

from lrt_jax.data.captions import normalise
from lrt_jax.data.dataset.prepared_set import PreparedSet
from lrt_jax.data.preparation.image_scan import ImageFacts, hashes, thumbs
from lrt_jax.data.preparation.merge import Plan, without
from lrt_jax.data.preparation.near_duplicates import near_captions, taken_pictures
from lrt_jax.data.schema import PairRecord
from lrt_jax.data.sources import SOURCES

OWN_TEST = "its own test split"
OWN_VALIDATION = "its own validation split"
SHOWN = 100  # near captions of a test set that a report lists


@dataclasses.dataclass(frozen=True)
class TestSet:
    """Captions and pictures that must stay out of training."""

    __test__ = False  # pytest takes the name for its own

    name: str  # for reports
    source: str  # of the prepared set
    splits: tuple[str, ...]  # that are compared
    # Those of them that the source has itself, whole, and that were not cut here.
    own_splits: tuple[str, ...]
    digest: str  # of the prepared set
    captions: tuple[str, ...]  # different ones, as published
    hashes: UInt64[np.ndarray, " n"]  # perceptual hashes of its images
    thumbs: UInt8[np.ndarray, "n 8 8 3"]  # their thumbnails
    digests: tuple[str, ...] = ()  # of its images, where they are known


@dataclasses.dataclass(frozen=True)
class Leaks:
    """What of a data set is near a test set."""

    # Normalised captions that are near one of its captions: that one, and the cosine.
    captions: Mapping[str, tuple[str, float]]
    images: frozenset[str]  # digests of pictures that are near one of its pictures

    def hit(self, caption: str, images: Sequence[str]) -> bool:
        """Whether a pair must go."""
        return normalise(caption) in self.captions or not self.images.isdisjoint(images)


def is_test(split: str) -> bool:
    """Whether a split is for testing, by its name."""
    return re.search("test|eval", split) is not None


def is_validation(split: str) -> bool:
    """Whether a split is for choosing between models while they are trained, by its name."""
    return bool(re.search("val|dev", split)) and not re.search("test|eval|train", split)


def unchecked(compared: Iterable[TestSet]) -> list[str]:
    """Public test sets, as `source (split)`, that are not among some test sets."""
    done = {(test_set.source, split) for test_set in compared for split in test_set.own_splits}
    known = ((source, split) for source, x in SOURCES.items() for split in x.test_splits)
    return [f"{source} ({split})" for source, split in known if (source, split) not in done]


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
        splits=tuple(names),
        own_splits=tuple(name for name in names if name in prepared.report["own_splits"]),
        digest=prepared.fingerprint,
        captions=tuple(prepared.captions(rows)),
        hashes=hashes[images],
        thumbs=thumbs[images],
    )


def decontaminate(
    plan: Plan, test_sets: Sequence[TestSet], near: bool
) -> tuple[Plan, dict[str, dict[str, Any]], int]:
    """Leaves out of a plan what is near test sets, in splits that are not for testing.

    From the plan's own validation splits, only what is not for validation either.

    Args:
      plan: what would be written.
      test_sets: to keep away from.
      near: whether what is near the plan's own splits goes too, or only what is the same.

    Returns:
      The rest; what was near each test set, see `leak_report`; and how many pairs went.
    """
    digests = [fact.digest for fact in plan.files]
    gone, reports = set(), {}
    for test_set in test_sets:
        looked_at = [pair for pair in plan.pairs if _must_differ(pair.split, test_set)]
        if not looked_at:
            continue
        exact = test_set.name in (OWN_TEST, OWN_VALIDATION) and not near
        found = (_same if exact else _near)(test_set, looked_at, _shown(plan, looked_at))
        hit = [
            pair.uid
            for pair in looked_at
            if found.hit(pair.prompt, [digests[row] for row in pair.image_index])
        ]
        gone.update(hit)
        reports[test_set.name] = leak_report(found, looked_at, len(hit))
    return without(plan, gone) if gone else plan, reports, len(gone)


def _must_differ(split: str, test_set: TestSet) -> bool:
    """Whether pairs of a split are kept apart from a test set."""
    is_own = test_set.name == OWN_VALIDATION and is_validation(split)
    return not (is_own or is_test(split))


def own_sets(source: str, plan: Plan, own_splits: Collection[str]) -> list[TestSet]:
    """The splits of a plan that its training pairs must not have seen, as test sets, if any.

    Args:
      source: name of the source.
      plan: what would be written.
      own_splits: splits that the source has itself. Validation splits that are cut here are of
        other prompt clusters, and compared with nothing.
    """
    splits = {
        OWN_TEST: tuple(filter(is_test, plan.splits)),
        OWN_VALIDATION: tuple(
            split for split in plan.splits if is_validation(split) and split in own_splits
        ),
    }
    return [_own(name, source, plan, names, own_splits) for name, names in splits.items() if names]


def _own(
    name: str, source: str, plan: Plan, splits: tuple[str, ...], own_splits: Collection[str]
) -> TestSet:
    pairs = [pair for split in splits for pair in plan.splits[split]]
    files = _shown(plan, pairs)
    captions = tuple(dict.fromkeys(pair.prompt for pair in pairs))
    return TestSet(
        name=name,
        source=source,
        splits=splits,
        own_splits=tuple(split for split in splits if split in own_splits),
        digest="",
        captions=captions,
        hashes=hashes(files),
        thumbs=thumbs(files),
        digests=tuple(fact.digest for fact in files),
    )


def _shown(plan: Plan, pairs: Iterable[PairRecord]) -> list[ImageFacts]:
    """The images of some pairs of a plan."""
    return [plan.files[row] for row in sorted({i for pair in pairs for i in pair.image_index})]


def _near(test_set: TestSet, pairs: Sequence[PairRecord], files: Sequence[ImageFacts]) -> Leaks:
    texts = list(dict.fromkeys(normalise(pair.prompt) for pair in pairs))
    named = {normalise(caption): caption for caption in test_set.captions}
    near = near_captions(texts, list(named)) if texts and named else {}
    theirs = list(named.values())
    taken = taken_pictures(hashes(files), thumbs(files), test_set.hashes, test_set.thumbs)
    return Leaks(
        captions={texts[i]: (theirs[j], cosine) for i, (j, cosine) in sorted(near.items())},
        images=frozenset(fact.digest for fact in itertools.compress(files, taken)),
    )


def _same(test_set: TestSet, pairs: Sequence[PairRecord], files: Sequence[ImageFacts]) -> Leaks:
    named = {normalise(caption): caption for caption in test_set.captions}
    texts = dict.fromkeys(normalise(pair.prompt) for pair in pairs)
    return Leaks(
        captions={text: (named[text], 1.0) for text in texts if text in named},
        images=frozenset(test_set.digests) & {fact.digest for fact in files},
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
