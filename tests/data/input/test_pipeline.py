"""Order, swaps and shapes of pairs follow from the seed, however they are loaded."""

import dataclasses
import itertools
import json
import pickle

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from lrt_jax.assets.tokenizer import write_tokenizer
from lrt_jax.data.dataset import selection
from lrt_jax.data.dataset.prepared_set import PreparedSet
from lrt_jax.data.images import ImageError
from lrt_jax.data.input import pairs
from lrt_jax.data.input.pairs import PairEncoder, PairSource
from lrt_jax.data.input.patches import read_image_policy
from lrt_jax.data.input.pipeline import eval_loader, train_loader
from lrt_jax.data.input.prompts import PromptEncoder
from lrt_jax.data.preparation.prepare import prepare
from lrt_jax.data.schema import (
    FIRST,
    SECOND,
    TIE,
    UNLABELLED,
    PairRecord,
    hard_label,
    smoothed_share,
)
from lrt_jax.models.qwen2_5_vl.config import ModelConfig, TextConfig
from tests.data.own_folder import own_folder
from tests.data.preparation.test_prepare import CAPTIONS, hpd_test, imagereward, png
from tests.data.small_encoder import ENCODER, POLICY, VISION


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """7 groups of 3 images: 21 pairs, 7 of them ties."""
    folder = tmp_path_factory.mktemp("set")
    prepare("hpdv2", hpd_test(folder / "in", groups=7), folder / "out")
    return PreparedSet(folder / "out")


def loader(prepared, **options):
    defaults = dict(split="test", batch_size=2, seed=1, num_threads=0)
    return train_loader(prepared, ENCODER, **defaults | options)


def take(batches, count):
    return list(itertools.islice(batches, count))


def seen(batches):
    """Row and swap of every example."""
    rows = [zip(b.target.pair.tolist(), b.target.swapped.tolist(), strict=True) for b in batches]
    return list(itertools.chain(*rows))


def assert_equal(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


# ---------------------------------------------------------------------------- one pair


def record(**fields):
    defaults = dict(
        uid="u", source="s", split="test", group_id="g", cluster=0, prompt="a caption",
        image_index=(0, 1), votes=(3.0, 1.0), rank=(1.0, 2.0), label=FIRST, p_first=0.7,
        votes_weighted=(3.0, 1.0), criterion="overall", generator=("", ""), flags=0,
    )  # fmt: skip
    return PairRecord(**defaults | fields)


def raw(files, row=-1, keys=("image 0", "image 1"), **fields):
    return pairs.RawPair(row, record(**fields), files, keys)


def test_a_bad_image_is_named_in_either_order():
    files, keys = (png(1, (60, 40)), b"no image"), ("good", "bad")
    for swapped in (False, True):
        with pytest.raises(ImageError, match="^bad: not an image") as caught:
            ENCODER.encode(pairs.RawPair(3, record(), files, keys), swapped)
        assert caught.value.__notes__ == ["in pair u, row 3 of the pairs table"]
    shapes = png(1, (14, 5000)), png(2, (40, 40))
    with pytest.raises(ImageError, match="^long: aspect"):
        ENCODER.encode(pairs.RawPair(3, record(), shapes[::-1], ("other", "long")), True)


def test_swapping_shows_the_second_image_first():
    files = png(1, (60, 40)), png(2, (40, 90))
    encoder = dataclasses.replace(ENCODER, policy=dataclasses.replace(POLICY, one_grid=False))
    plain, swapped = (encoder.encode(raw(files, row=5), turned) for turned in (False, True))
    for name in ("patches", "coords", "window"):
        np.testing.assert_array_equal(
            getattr(plain.images, name), getattr(swapped.images, name)[::-1]
        )
    assert (plain.images.patches[0] != plain.images.patches[1]).any()
    assert plain.prompt.tokens[:5].tolist() == [9, 2, 4, 6, 2]
    assert swapped.prompt.tokens[:5].tolist() == [9, 6, 2, 2, 4]
    assert plain.listener_prompts[0].tokens.shape == (24,)
    assert (plain.target.label, swapped.target.label) == (FIRST, SECOND)
    assert plain.target.p_first + swapped.target.p_first == pytest.approx(1)
    assert (plain.target.swapped, swapped.target.swapped) == (False, True)
    assert plain.target.pair == swapped.target.pair == 5


def test_swapping_twice_changes_nothing():
    mirrored = record(label=SECOND, p_first=1 - 0.7)
    files = png(1), png(2)
    assert_equal(
        ENCODER.encode(raw(files), False).images,
        ENCODER.encode(dataclasses.replace(raw(files[::-1]), record=mirrored), True).images,
    )
    back = pairs.target(mirrored, 0, True)
    assert back.label == FIRST
    assert back.p_first == pytest.approx(0.7)
    for label in (TIE, UNLABELLED):
        assert pairs.target(record(label=label), 0, True).label == label


def test_encoder_and_source_can_be_pickled(prepared):
    source = PairSource(prepared, np.arange(3))
    assert source[2].record.uid  # its files are open now
    again = pickle.loads(pickle.dumps(source))
    assert len(again) == 3
    assert repr(again[2]) == repr(source[2])  # equality would hold unknown weights, NaN, unequal
    assert pickle.loads(pickle.dumps(ENCODER)) == ENCODER


def test_errors_name_image_and_pair(prepared):
    names = "left.png", "right.png"
    with pytest.raises(ImageError, match=r"left\.png: not an image"):
        ENCODER.encode(raw((b"not an image", png(1)), keys=names), False)
    with pytest.raises(ImageError, match=r"right\.png: empty"):
        ENCODER.encode(raw((png(1), b""), keys=names), True)
    pair = PairSource(prepared, np.array([4]))[0]
    long = dataclasses.replace(pair, record=record(prompt="x" * 1001, uid="hpdv2/test/7"))
    with pytest.raises(ValueError, match="bucket") as error:
        ENCODER.encode(long, False)
    assert error.value.__notes__ == ["in pair hpdv2/test/7, row 4 of the pairs table"]


# ---------------------------------------------------------------------------- training


def test_each_pair_once_per_epoch_in_an_order_that_changes(prepared):
    epochs = [seen(take(loader(prepared), 21))[k : k + 14] for k in (0, 14, 28)]
    for epoch in epochs:
        rows = sorted(row for row, _ in epoch)
        assert rows == [row for row in range(21) if prepared.labels[row] != TIE]
    assert [row for row, _ in epochs[0]] != [row for row, _ in epochs[1]]
    swaps = [dict(epoch) for epoch in epochs]
    assert swaps[0] != swaps[1]
    assert 0.25 < np.mean([s for epoch in epochs for _, s in epoch]) < 0.75


def test_order_and_swaps_follow_the_seed(prepared):
    def order(**options):
        return seen(take(loader(prepared, **options), 14))

    assert order() == order()
    assert order() != order(seed=2)
    assert order() == order(num_threads=3)


def test_ties_are_kept_when_asked(prepared):
    rows = {row for row, _ in seen(take(loader(prepared, drop_ties=False, batch_size=7), 3))}
    assert rows == set(range(21))


def test_examples_are_those_of_the_stored_pairs(prepared):
    (batch,) = take(loader(prepared, batch_size=14), 1)
    source = PairSource(prepared, np.arange(21))
    for i, (row, swapped) in enumerate(seen([batch])):
        expected = ENCODER.encode(source[row], swapped)
        actual = jax.tree.map(lambda leaf, i=i: leaf[i], batch)
        assert_equal(
            (actual.images, actual.prompt, actual.listener_prompts, actual.target),
            (expected.images, expected.prompt, expected.listener_prompts, expected.target),
        )
        assert actual.target.label == (SECOND if swapped else FIRST)  # the first listed wins


def test_shapes_and_dtypes_are_constant(prepared):
    def spec(batch):
        return jax.tree.map(lambda x: (type(x), x.shape, x.dtype), batch)

    batches = take(loader(prepared), 8)
    assert all(spec(batch) == spec(batches[0]) for batch in batches)
    assert batches[0].images.patches.shape == (2, 2, 64, 588)
    assert batches[0].images.patches.dtype == np.uint8
    assert batches[0].target.label.dtype == np.int32
    assert batches[0].target.swapped.dtype == np.bool_
    assert all(leaf.dtype != np.float64 for leaf in jax.tree.leaves(batches[0]))


@given(
    counts=st.lists(st.sampled_from([1, 2, 4]), min_size=2, max_size=3),
    steps=st.lists(st.integers(0, 9), min_size=3, max_size=3),
)
@settings(max_examples=10, deadline=None)
def test_the_order_is_the_same_for_any_number_of_processes(prepared, counts, steps):
    """Also where some processes go on from a place that others left."""
    with loader(prepared, batch_size=4) as alone:
        expected = take(alone, sum(steps))
    state, found = None, []
    for count, more in zip(counts, steps, strict=False):
        parts, states = [], []
        for index in range(count):
            with loader(prepared, batch_size=4, process_index=index, process_count=count) as mine:
                if state is not None:
                    mine.set_state(state)
                parts.append(take(mine, more))
                states.append(json.loads(json.dumps(mine.get_state())))
        assert all(other == states[0] for other in states)
        state = states[0]
        found += [concatenate(step) for step in zip(*parts, strict=True)]
    assert_equal(found, expected[: len(found)])


def concatenate(batches):
    """What processes hold of a batch, put together."""
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *batches)


def test_batches_that_processes_cannot_share_are_refused(prepared):
    with pytest.raises(ValueError, match="a batch of 6 pairs does not divide over 4 processes"):
        loader(prepared, batch_size=6, process_count=4)
    with pytest.raises(ValueError, match="a batch of 6 pairs does not divide over 4 processes"):
        evaluation(prepared, batch_size=6, process_count=4)


def test_state_is_the_place_after_the_last_batch_taken(prepared):
    with loader(prepared, num_threads=2) as batches:
        take(batches, 9)  # past the first epoch
        state = json.loads(json.dumps(batches.get_state()))
        expected = take(batches, 6)
    with loader(prepared, num_threads=2) as again:
        take(again, 3)
        again.set_state(state)
        for one, other in zip(take(again, 6), expected, strict=True):
            assert_equal(one, other)


@given(taken=st.integers(0, 25), batch_size=st.integers(1, 5))
@settings(max_examples=15, deadline=None)
def test_any_step_can_be_gone_on_from(prepared, taken, batch_size):
    with loader(prepared, batch_size=batch_size, num_threads=2) as batches:
        take(batches, taken)
        state = json.loads(json.dumps(batches.get_state()))
        expected = take(batches, 2)
    with loader(prepared, batch_size=batch_size) as again:
        again.set_state(state)
        assert_equal(take(again, 2), expected)


@given(
    votes=st.tuples(st.integers(0, 9), st.integers(0, 9)),
    swapped=st.booleans(),
)
@settings(deadline=None)
def test_swaps_undo_themselves(votes, swapped):
    """A pair that is stored the other way round and shown swapped is the pair as it was."""
    fields = {"votes": tuple(map(float, votes)), "label": hard_label(votes)}
    stored = record(**fields, p_first=smoothed_share(votes))
    turned_votes = votes[::-1]
    turned = record(
        votes=tuple(map(float, turned_votes)),
        label=hard_label(turned_votes),
        p_first=smoothed_share(turned_votes),
    )
    one, other = pairs.target(stored, 3, swapped), pairs.target(turned, 3, not swapped)
    assert one.label == other.label
    assert one.p_first == pytest.approx(other.p_first, abs=1e-6)


def test_a_place_in_other_data_is_refused(prepared):
    state = loader(prepared).get_state()
    with pytest.raises(ValueError, match="seed was 1 and is 2"):
        loader(prepared, seed=2).set_state(state)
    with pytest.raises(ValueError, match="num_workers was 0 and is 2"):
        loader(prepared, num_workers=2).set_state(state)


def test_workers_resume_whatever_the_number_of_processes(prepared):
    expected = take(loader(prepared, batch_size=4), 7)
    with loader(prepared, batch_size=4, num_workers=2) as batches:
        first = take(batches, 5)
        state = json.loads(json.dumps(batches.get_state()))
        after = take(batches, 1)
        batches.set_state(state)
        again = take(batches, 2)
    assert_equal(first + again, expected)
    assert_equal(after, expected[5:6])
    second_of_two = dict(process_index=1, process_count=2)
    with loader(prepared, batch_size=4, num_workers=2, **second_of_two) as batches:
        batches.set_state(state)
        half = take(batches, 2)
    assert_equal(half, [jax.tree.map(lambda leaf: leaf[2:], batch) for batch in expected[5:]])


def test_too_little_data_for_a_batch(prepared):
    with pytest.raises(ValueError, match=r"has 14 pairs to train on.*batch of 15"):
        loader(prepared, batch_size=15)
    with pytest.raises(ValueError, match=r"has 14 pairs to train on.*batch of 16"):
        loader(prepared, batch_size=16, process_index=1, process_count=2)
    with pytest.raises(ValueError, match="no split 'train'"):
        loader(prepared, split="train")


def test_prompts_fit_their_images(prepared, tmp_path):
    """With the encoder of real prompts, in threads and after pickling."""
    write_tokenizer(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    ids = tokenizer.convert_tokens_to_ids(["<|image_pad|>", "<|video_pad|>"])
    text = TextConfig(1024, 64, 128, 2, 4, 2, (2, 3, 3), 1e6, 1e-6, True)
    config = ModelConfig(VISION, text, *ids)
    policy = read_image_policy(tmp_path, VISION, 64)
    prompts = [PromptEncoder(tokenizer, config, style, 160, 64) for style in ("reason", "judge")]
    encoder = pickle.loads(pickle.dumps(PairEncoder(policy, VISION, prompts[0], (prompts[1],))))
    options = dict(split="test", batch_size=7, seed=0)
    with train_loader(prepared, encoder, num_threads=4, **options) as batches:
        threaded = take(batches, 4)
    assert_equal(threaded, take(train_loader(prepared, encoder, num_threads=0, **options), 4))
    for prompt in (threaded[0].prompt, *threaded[0].listener_prompts):
        patches = (threaded[0].images.window >= 0).sum(axis=(1, 2))
        np.testing.assert_array_equal((prompt.image_index >= 0).sum(axis=1), patches // 4)
        assert (prompt.length < 160).all()


# ---------------------------------------------------------------------------- evaluation


def evaluation(prepared, **options):
    defaults = dict(split="test", batch_size=4, num_threads=0)
    return eval_loader(prepared, ENCODER, **defaults | options)


def counted(batches):
    """Row and swap of every example of weight 1."""
    weights = itertools.chain(*(batch.target.weight.tolist() for batch in batches))
    return list(itertools.compress(seen(batches), weights))


def test_evaluation_shows_both_orders_once_and_fills_up(prepared):
    loader = evaluation(prepared)
    batches = list(loader)
    assert len(loader) == len(batches) == 11  # 42 shown pairs, two rows to fill up
    assert counted(batches) == [(row, swap) for row in range(21) for swap in (False, True)]
    assert batches[-1].target.weight.tolist() == [1, 1, 0, 0]
    assert (batches[-1].prompt.length >= 2).all()  # what fills up can be computed with
    assert {batch.images.patches.shape for batch in batches} == {(4, 2, 64, 588)}
    assert_equal(batches, list(loader))
    assert_equal(batches, list(evaluation(prepared, num_threads=2)))


def test_evaluation_of_a_part(prepared):
    loader = evaluation(prepared, limit=5, seed=3)
    assert (loader.pairs, loader.available) == (5, 21)
    rows = [row for row, _ in counted(loader)]
    assert len(rows) == 10
    assert len(set(rows)) == 5
    assert rows == [row for row, _ in counted(evaluation(prepared, limit=5, seed=3))]
    assert rows != [row for row, _ in counted(evaluation(prepared, limit=5, seed=4))]
    assert evaluation(prepared, limit=99).pairs == 21
    with pytest.raises(ValueError, match="limit=0"):
        evaluation(prepared, limit=0)


def test_processes_share_every_batch_of_an_evaluation(prepared):
    options = dict(batch_size=16)
    whole = list(evaluation(prepared, **options))
    parts = [
        list(evaluation(prepared, process_index=i, process_count=4, **options)) for i in range(4)
    ]
    assert {len(part) for part in parts} == {len(whole)} == {3}
    assert_equal([concatenate(step) for step in zip(*parts, strict=True)], whole)


def test_more_processes_than_pairs(tmp_path):
    source = imagereward(tmp_path / "in", [("g", "p", "1", "2", 1, 2)])
    prepare("imagereward", source, tmp_path / "out", split_fractions={"test": 1.0})
    prepared = PreparedSet(tmp_path / "out")
    idle = list(evaluation(prepared, process_index=1, process_count=2))
    assert len(idle) == 1
    assert not idle[0].target.weight.any()
    assert idle[0].target.weight.dtype == np.float32


def test_pairs_can_be_left_out(prepared):
    rows = {row for row, _ in seen(take(loader(prepared, leave_out=[0, 3]), 6))}
    assert rows == {row for row in range(21) if prepared.labels[row] != TIE} - {0, 3}
    loader_ = evaluation(prepared, leave_out=[0, 3])
    assert {row for row, _ in counted(loader_)} == set(range(21)) - {0, 3}
    assert (loader_.pairs, loader_.available) == (19, 19)


@pytest.fixture(scope="module")
def hardly_judged(tmp_path_factory):
    """Three pairs: one that somebody voted on, a tie, and one without a vote."""
    folder = tmp_path_factory.mktemp("hardly")
    votes = [(2, 1), (1, 1), (0, 0)]
    fields = [{"winner": None, "votes": list(pair), "split": "test"} for pair in votes]
    rows = [(CAPTIONS[i], png(2 * i), png(2 * i + 1), x) for i, x in enumerate(fields)]
    prepare("folder", own_folder(folder / "in", rows), folder / "out")
    return PreparedSet(folder / "out")


def test_pairs_that_nobody_voted_on_are_not_evaluated(hardly_judged):
    without = [row for row in range(3) if hardly_judged.labels[row] == UNLABELLED]
    assert len(without) == 1
    loader_ = evaluation(hardly_judged)
    assert {row for row, _ in counted(loader_)} == {0, 1, 2} - {*without}
    assert (loader_.pairs, loader_.available) == (2, 2)
    assert evaluation(hardly_judged, limit=2).pairs == 2
    judged = [row for row in range(3) if row not in without]
    with pytest.raises(ValueError, match="split 'test' of .* has no pairs with votes to evaluate"):
        evaluation(hardly_judged, leave_out=judged)


# ---------------------------------------------------------------------------- weights


def test_margins_weigh_pairs_with_a_mean_of_one(prepared):
    rows = selection.training_rows(prepared, "test", drop_ties=False)
    weights = selection.margin_weights(prepared, rows)
    margins = [abs(2 * prepared.pair(int(row)).p_first - 1) for row in rows]
    np.testing.assert_allclose(weights, np.array(margins) / np.mean(margins), rtol=1e-6)
    assert weights.dtype == np.float32 and (weights[prepared.labels[rows] == TIE] == 0).all()

    options = dict(drop_ties=False, batch_size=7, seed=3)
    weighted = take(loader(prepared, pair_weights="margin", **options), 3)
    for batch, plain in zip(weighted, take(loader(prepared, **options), 3), strict=True):
        np.testing.assert_array_equal(batch.target.weight, weights[batch.target.pair])
        assert batch.target.weight.dtype == np.float32
        ones = batch.target.replace(weight=np.ones(7, np.float32))
        assert_equal(batch.replace(target=ones), plain)  # nothing else differs


def test_weights_that_are_all_nothing_are_refused(prepared):
    ties = np.flatnonzero(prepared.labels == TIE)
    with pytest.raises(ValueError, match="every pair to train on is a tie"):
        selection.margin_weights(prepared, ties)
    with pytest.raises(ValueError, match="'loud' is not one of equal, margin"):
        loader(prepared, pair_weights="loud")


# ---------------------------------------------------------------------------- real data


def test_hpd_gallery(tmp_path, real_data):
    prepare("hpdv2", real_data / "hpd_gallery", tmp_path / "out")
    prepared = PreparedSet(tmp_path / "out")
    loader = evaluation(prepared, limit=6, num_threads=2)
    labels = [label for batch in loader for label in batch.target.label.tolist()]
    assert len(labels) == 12
    assert selection.training_rows(prepared, "test", drop_ties=True).size == 2565
