"""What is near a test set is kept out of training, and said."""

import io

import numpy as np
import pytest
from PIL import Image, ImageFilter

from lrt_jax.data.dataset.prepared_set import PreparedSet
from lrt_jax.data.preparation.decontamination import (
    OWN_TEST,
    OWN_VALIDATION,
    is_validation,
    open_test_sets,
    unchecked,
)
from lrt_jax.data.preparation.image_scan import inspect
from lrt_jax.data.preparation.merge import make_plan
from lrt_jax.data.preparation.prepare import prepare
from lrt_jax.data.sources import SOURCES, InputFolder, read_groups
from tests.data.own_folder import own_folder
from tests.data.preparation.test_near_duplicates import COPIES, REWRITES, TEST_CAPTIONS, landscape
from tests.data.preparation.test_prepare import hpd_test

TRAIN = {"split": "train"}
TEST = {"split": "test"}
VALIDATION = {"split": "validation"}
OTHERS = [f"{thing} made of {stuff}" for thing in ("boats", "hats") for stuff in ("paper", "ice")]


def captions_of(prepared: PreparedSet, split: str) -> set[str]:
    return {prepared.pair(row).prompt for row in prepared.rows(split)}


def test_planted_captions_and_pictures_are_left_out_of_training(tmp_path):
    shown = [landscape(seed) for seed in range(8)]
    rows = [(text, shown[2 * i], shown[2 * i + 1], TEST) for i, text in enumerate(TEST_CAPTIONS)]
    prepare("folder", own_folder(tmp_path / "test", rows), tmp_path / "test-set")
    fresh = iter(range(100, 200))

    def new():
        return landscape(next(fresh))

    rewritten = [(change(TEST_CAPTIONS[0]), new(), new(), TRAIN) for change in REWRITES.values()]
    copied = [
        (f"{OTHERS[0]} {'abcdefgh'[i] * 9}", new(), copy(shown[i]), TRAIN)
        for i, copy in enumerate(COPIES.values())
    ]
    clean = [(text, new(), new(), TRAIN) for text in OTHERS]
    rows = [*rewritten, *copied, *clean, (TEST_CAPTIONS[0], new(), new(), TEST)]
    source = own_folder(tmp_path / "in", rows)

    alone = prepare("folder", source, tmp_path / "alone", near_duplicates="keep")
    assert alone.pairs == len(rows) - 1  # one has the words of a caption of its own test split
    assert list(alone.leaks) == [OWN_TEST]
    report = prepare(
        "folder",
        source,
        tmp_path / "out",
        near_duplicates="keep",
        test_sets=[tmp_path / "test-set"],
    )
    found = report.leaks["folder (test)"]
    assert (found["captions"], found["images"], found["pairs"]) == (5, 5, 10)
    assert {x["test"] for x in found["near"]} == {TEST_CAPTIONS[0]}
    prepared = PreparedSet(tmp_path / "out")
    assert captions_of(prepared, "train") == set(OTHERS)
    assert captions_of(prepared, "test") == {TEST_CAPTIONS[0]}  # which is no training data
    assert report.images == prepared.num_images == 2 * len(clean) + 2
    assert "| folder (test) | 5 | 5 | 10 |" in (tmp_path / "out" / "build_report.md").read_text()


def test_a_sets_own_test_split_is_kept_apart(tmp_path):
    one, other = landscape(0), landscape(1)
    rows = [
        (TEST_CAPTIONS[0], one, other, TEST),
        (REWRITES["a word less"](TEST_CAPTIONS[0]), landscape(2), landscape(3), TRAIN),
        (OTHERS[0], COPIES["WebP"](one), landscape(4), TRAIN),
        (OTHERS[1], landscape(5), landscape(6), TRAIN),
    ]
    report = prepare("folder", own_folder(tmp_path / "in", rows), tmp_path / "out")
    assert (report.pairs, report.leaks[OWN_TEST]["pairs"]) == (2, 2)
    assert captions_of(PreparedSet(tmp_path / "out"), "train") == {OTHERS[1]}


def near_validation() -> list[tuple]:
    """Training pairs equal to, near and far from validation pairs; one of these near the test."""
    one, other = landscape(0), landscape(1)
    return [
        (TEST_CAPTIONS[0], one, other, VALIDATION),
        (TEST_CAPTIONS[0], other, landscape(2), TRAIN),
        (REWRITES["a word less"](TEST_CAPTIONS[0]), landscape(3), landscape(4), TRAIN),
        (OTHERS[0], COPIES["WebP"](one), landscape(5), TRAIN),
        (OTHERS[1], landscape(6), landscape(7), TRAIN),
        (TEST_CAPTIONS[1], landscape(8), landscape(9), TEST),
        (TEST_CAPTIONS[1], landscape(10), landscape(11), VALIDATION),
        (TEST_CAPTIONS[2], landscape(12), landscape(13), VALIDATION),
        (TEST_CAPTIONS[2], landscape(14), landscape(15), VALIDATION),
    ]


NEAR_ONLY = {REWRITES["a word less"](TEST_CAPTIONS[0]), OTHERS[0]}


@pytest.mark.parametrize("how, train", [("merge", {OTHERS[1]}), ("keep", {OTHERS[1], *NEAR_ONLY})])
def test_a_sets_own_validation_split_is_kept_apart(tmp_path, how, train):
    source = own_folder(tmp_path / "in", near_validation())
    report = prepare("folder", source, tmp_path / "out", near_duplicates=how)
    prepared = PreparedSet(tmp_path / "out")
    assert captions_of(prepared, "train") == train
    assert captions_of(prepared, "validation") == {TEST_CAPTIONS[0], TEST_CAPTIONS[2]}
    assert {name: len(r) for name, r in prepared.splits.items()} == {
        "train": len(train),
        "validation": 3,
        "test": 1,
    }
    left_out = {name: found["pairs"] for name, found in report.leaks.items()}
    assert left_out == {OWN_TEST: 1, OWN_VALIDATION: 4 - len(train)}
    assert report.leaked_pairs == 5 - len(train)
    page = (tmp_path / "out" / "build_report.md").read_text()
    assert f"| {OWN_VALIDATION} | " in page


HALVES = {"train": 0.5, "validation": 0.5}


@pytest.mark.parametrize("splits", [{"seed": 1}, {"split_fractions": HALVES}])
def test_a_validation_split_that_is_cut_here_is_compared_with_nothing(tmp_path, splits):
    own = "split_fractions" in splits  # which override them
    rows = [(*row[:3], row[3] if own else {}) for row in near_validation()]
    report = prepare("folder", own_folder(tmp_path / "in", rows), tmp_path / "out", **splits)
    assert "validation" in report.splits
    assert OWN_VALIDATION not in report.leaks


def test_what_is_called_a_validation_split():
    names = ("val", "validation", "validation_unique", "dev", "train", "test", "eval", "train_val")
    assert [name for name in names if is_validation(name)] == [*names[:4]]


def test_another_test_set_is_another_build(tmp_path):
    rows = [(TEST_CAPTIONS[0], landscape(0), landscape(1), TEST)]
    prepare("folder", own_folder(tmp_path / "test", rows), tmp_path / "test-set")
    rows = [(OTHERS[1], landscape(5), landscape(6), TRAIN)]
    source, out = own_folder(tmp_path / "in", rows), tmp_path / "out"
    first = prepare("folder", source, out, test_sets=[tmp_path / "test-set"])
    assert prepare("folder", source, out, test_sets=[tmp_path / "test-set"]) == first
    try:
        prepare("folder", source, out)
    except FileExistsError as error:
        assert "test_sets" in str(error)
    else:
        raise AssertionError("the set was taken for one that was compared with nothing")


def test_pictures_that_look_the_same_are_one(tmp_path):
    large = landscape(0, 256)
    rows = [
        (OTHERS[0], COPIES["half the size"](large), landscape(1), TRAIN),
        (OTHERS[0], landscape(1), large, TRAIN),  # the other is preferred now
        (OTHERS[1], landscape(1), COPIES["JPEG at quality 30"](large), TRAIN),
        (OTHERS[2], landscape(2), landscape(3), TRAIN),
    ]
    report = prepare("folder", own_folder(tmp_path / "in", rows), tmp_path / "out")
    assert (report.near_duplicates, report.merged_pairs, report.conflicts) == (2, 1, 1)
    assert (report.self_pairs, report.pairs, report.images) == (0, 3, 4)
    assert report.near_images == {"0-0.png": "1-1.png", "2-1.png": "1-1.png"}
    prepared = PreparedSet(tmp_path / "out")
    assert prepared.image(prepared.pair(0).image_index[0]).height == 256  # the larger is kept
    kept = prepare("folder", tmp_path / "in", tmp_path / "kept", near_duplicates="keep")
    assert (kept.near_duplicates, kept.pairs, kept.images) == (0, 4, 6)


def saved(pixels, **options) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", **options)
    return file.getvalue()


def degraded(pixels: np.ndarray, how: str) -> np.ndarray | bytes:
    """What people are asked to compare with an original."""
    if how == "quality 10":
        return saved(pixels, quality=10)
    image = Image.fromarray(pixels)
    if how == "blur":
        return np.asarray(image.filter(ImageFilter.GaussianBlur(1.5)))
    return np.asarray(image.resize((64, 64)).resize((128, 128)))


@pytest.mark.parametrize("how", ["quality 10", "blur", "small"])
def test_two_images_of_a_judged_pair_stay_two(tmp_path, how):
    """However much they look the same; a third copy, which nobody held against it, is the first."""
    rows = [
        (f"{OTHERS[i % 4]} {'abcdefgh'[i] * 9}", one, degraded(one, how), TRAIN)
        for i, one in enumerate(map(landscape, range(8)))
    ]
    first = landscape(0)
    rows += [
        (OTHERS[0], saved(first, quality=95), landscape(20), TRAIN),
        (OTHERS[1], landscape(21), landscape(21), TRAIN),  # the same bytes: nothing to compare
    ]
    source = own_folder(tmp_path / "in", rows)
    groups, folder = read_groups("folder", source), InputFolder(source)
    refs = [ref for group in groups for ref in group.images]
    facts = {ref: inspect(ref, load) for ref, load in folder.loads(refs)}
    for order in (facts, dict(reversed(facts.items()))):
        plan = make_plan("folder", groups, order, None, 0, near_is_same=True)
        assert (plan.counts["self_pairs"], len(plan.pairs), len(plan.files)) == (1, 9, 17)
        assert len(plan.near_images) == 1
        assert all(len(set(pair.image_index)) == 2 for pair in plan.pairs)


def test_known_test_sets_are_of_known_sources_and_said_unless_compared(tmp_path):
    known = unchecked([])
    assert len(known) > 4
    assert {name.split()[0] for name in known} <= set(SOURCES)
    prepare("hpdv2", hpd_test(tmp_path / "in"), tmp_path / "out")
    (own,) = open_test_sets([tmp_path / "out"])
    assert set(known) - set(unchecked([own])) == {"hpdv2 (test)"}


def test_equal_words_and_bytes_are_kept_apart_whatever_is_asked_for(tmp_path):
    one, other = landscape(0), landscape(1)
    rows = [
        (TEST_CAPTIONS[0], one, other, TEST),
        (TEST_CAPTIONS[0].upper(), landscape(2), landscape(3), TRAIN),
        (OTHERS[0], one, landscape(4), TRAIN),
        (OTHERS[1], COPIES["WebP"](one), landscape(5), TRAIN),  # near is not asked for
    ]
    report = prepare(
        "folder", own_folder(tmp_path / "in", rows), tmp_path / "out", near_duplicates="keep"
    )
    assert (report.pairs, report.leaked_pairs) == (2, 2)
    assert captions_of(PreparedSet(tmp_path / "out"), "train") == {OTHERS[1]}


def test_a_pair_near_two_test_sets_is_left_out_once(tmp_path):
    rows = [(TEST_CAPTIONS[0], landscape(0), landscape(1), TEST)]
    for name in ("one", "other"):
        prepare("folder", own_folder(tmp_path / name, rows), tmp_path / f"{name}-set")
        rows.append((TEST_CAPTIONS[1], landscape(8), landscape(9), TEST))
    rows = [
        (text, landscape(50 + 2 * i), landscape(51 + 2 * i), TRAIN)
        for i, text in enumerate((TEST_CAPTIONS[0], OTHERS[0]))
    ]
    sets = [tmp_path / "one-set", tmp_path / "other-set"]
    report = prepare("folder", own_folder(tmp_path / "in", rows), tmp_path / "out", test_sets=sets)
    assert list(report.leaks) == ["folder (test)", "folder (test) and another"]
    assert (report.pairs, report.leaked_pairs) == (1, 1)
