"""Several sets read as one, each with its share, in an order that is everybody's."""

import collections
import dataclasses
import json
import pickle

import jax
import numpy as np
import pytest

from lrt_jax.data.dataset import selection
from lrt_jax.data.dataset.mixture import MixedSet, drawn_parts, parts_of
from lrt_jax.data.dataset.prepared_set import PreparedSet
from lrt_jax.data.input.pipeline import eval_loader, train_loader
from lrt_jax.data.preparation.prepare import prepare
from lrt_jax.data.schema import TIE
from tests.data.input.test_pipeline import assert_equal, concatenate, counted, seen, take
from tests.data.preparation.test_prepare import hpd_test
from tests.data.small_encoder import ENCODER
from tests.training.small_run import write_hpdv2


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """12 pairs of 4 captions, 4 of them ties, and 27 pairs of 9, of which 9 are ties."""
    folder = tmp_path_factory.mktemp("sets")
    prepared = []
    for name, groups in {"small": 4, "large": 9}.items():
        prepare("hpdv2", hpd_test(folder / name / "in", groups=groups), folder / name / "out")
        prepared.append(PreparedSet(folder / name / "out"))
    return tuple(prepared)


@pytest.fixture(scope="module")
def mixed(sets):
    return MixedSet(sets, (3.0, 1.0))


def loader(prepared, **options):
    defaults = dict(split="test", batch_size=4, seed=1, num_threads=0)
    return train_loader(prepared, ENCODER, **defaults | options)


def test_rows_images_and_clusters_count_through_the_parts(mixed, sets):
    small, large = sets
    assert mixed.num_pairs == 12 + 27 and mixed.num_images == small.num_images + large.num_images
    assert list(mixed.rows("test")) == list(mixed.rows("all")) == list(range(39))
    for row, part, own in ((0, small, 0), (11, small, 11), (12, large, 0), (38, large, 26)):
        record, stored = mixed.pair(row), part.pair(own)
        assert (record.uid, record.votes) == (stored.uid, stored.votes)
        assert mixed.labels[row] == part.labels[own]
        assert mixed.clusters[row] == record.cluster
        assert tuple(mixed.pair_images[row]) == record.image_index
        for index, stored_index in zip(record.image_index, stored.image_index, strict=True):
            image = mixed.image(index)
            assert image.key == part.image(stored_index).key
            assert (image.height, image.width) == tuple(mixed.image_sizes[index])
    assert not {*mixed.clusters[:12]} & {*mixed.clusters[12:]}
    assert mixed.captions(range(39)) == large.captions(range(27))  # which has the small one's too
    assert mixed.captions([12]) == large.captions([0])
    for row in (-1, 39):
        with pytest.raises(IndexError, match=f"pair {row} of 39"):
            mixed.pair(row)
    with pytest.raises(IndexError, match="image -1"):
        mixed.image(-1)
    with pytest.raises(ValueError, match="no split 'train'; together they have test"):
        mixed.rows("train")


def test_a_mixture_can_be_pickled_and_knows_its_content(mixed, sets):
    mixed.labels  # noqa: B018  # fills the cache
    again = pickle.loads(pickle.dumps(mixed))
    assert again.pair(20).uid == mixed.pair(20).uid and "labels" not in vars(again)
    assert again.fingerprint == mixed.fingerprint
    assert MixedSet(sets[::-1], (1.0, 1.0)).fingerprint != mixed.fingerprint
    assert parts_of(mixed) == sets and parts_of(sets[0]) == (sets[0],)
    assert not mixed.beside("build_report.json").is_file()


@pytest.mark.parametrize("shares", [(1.0,), (0.0, 0.0), (-1.0, 2.0)])
def test_shares_that_cannot_be_meant(sets, shares):
    with pytest.raises(ValueError, match="share"):
        MixedSet(sets, shares)


def test_parts_have_their_shares_of_any_stretch(mixed):
    rows = [row for row, _ in seen(take(loader(mixed), 32))]
    small = [row < 12 for row in rows]
    for start in range(0, 128, 16):
        assert 11 <= sum(small[start : start + 16]) <= 13
    # Each part goes through all of its pairs before any comes again.
    for part, size in ((range(12), 8), (range(12, 39), 18)):
        own = [row for row in rows if row in part]
        for start in range(0, len(own) - size + 1, size):
            epoch = collections.Counter(own[start : start + size])
            assert len(epoch) == size and all(mixed.labels[row] != TIE for row in epoch)


def test_a_part_without_a_share_is_only_evaluated(sets):
    mixed = MixedSet(sets, (0.0, 1.0))
    assert drawn_parts(mixed) == [(range(12, 39), 1.0)]
    drawn = take(loader(mixed), 9)
    assert {row for row, _ in seen(drawn)} == {
        row for row in range(12, 39) if mixed.labels[row] != TIE
    }
    assert_equal(
        [batch.images for batch in drawn], [batch.images for batch in take(loader(sets[1]), 9)]
    )
    shown = counted(eval_loader(mixed, ENCODER, split="test", batch_size=6, num_threads=0))
    assert shown == [(row, swapped) for row in range(39) for swapped in (False, True)]


def test_a_mixture_has_one_order_and_can_be_gone_on_from(mixed):
    expected = take(loader(mixed), 12)
    assert_equal(take(loader(mixed, num_threads=3), 12), expected)
    halves = [take(loader(mixed, process_index=i, process_count=2), 12) for i in range(2)]
    assert_equal([concatenate(step) for step in zip(*halves, strict=True)], expected)
    with loader(mixed, num_threads=2) as first:
        take(first, 7)
        state = json.loads(json.dumps(first.get_state()))
    with loader(mixed) as again:
        again.set_state(state)
        assert_equal(take(again, 5), expected[7:])
    with pytest.raises(ValueError, match=r"shares was \[3.0, 1.0\] and is \[1.0, 1.0\]"):
        loader(dataclasses.replace(mixed, shares=(1.0, 1.0))).set_state(state)


def test_margins_are_scaled_within_each_part(mixed):
    with loader(mixed, drop_ties=False, pair_weights="margin", batch_size=39) as batches:
        first, second = take(batches, 2)
    target = jax.tree.map(lambda *x: np.concatenate(x), first.target, second.target)
    weights = dict(zip(target.pair.tolist(), target.weight.tolist(), strict=True))
    small = [row for row in weights if row < 12]
    assert len(small) == 12 and np.mean([weights[row] for row in small]) == pytest.approx(1)


def test_a_part_with_a_share_must_have_pairs(sets, tmp_path):
    prepare("hpdv2", write_hpdv2(tmp_path / "in"), tmp_path / "out", split_fractions={"other": 1.0})
    mixed = MixedSet((sets[0], PreparedSet(tmp_path / "out")), (1.0, 1.0))
    with pytest.raises(ValueError, match="no pair to train on of the mixture's part 1"):
        loader(mixed)
    assert selection.training_rows(MixedSet(mixed.parts, (1.0, 0.0)), "test", True).size == 8
