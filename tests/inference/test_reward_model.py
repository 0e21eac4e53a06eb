"""The reward model as people use it: the built-in model, and a stub where weights do not matter."""

import concurrent.futures
import dataclasses
import doctest
import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

from lrt_jax import PreferenceReward, RewardModel, assets
from lrt_jax.config import ListenerSpec
from lrt_jax.data.images import ImageError
from lrt_jax.data.input.patches import shown_grids
from lrt_jax.data.input.prompts import PromptTooLong
from lrt_jax.data.input.tokenizer import load_tokenizer, stop_token_ids, token_ids
from lrt_jax.inference import preference_reward, results, reward_model
from lrt_jax.inference.answers import Forcing, read_answers
from lrt_jax.inference.settings import read_settings
from lrt_jax.models import SETTINGS, read_config
from lrt_jax.parallel.mesh import make_mesh
from lrt_jax.reporting.monitor import Monitor
from lrt_jax.rl.rollout import Rollout, SamplingConfig
from tests.inference.stub import stub_model, tiny_encoder

CAPTION = "a small red circle on the left above a large blue cross on the right"
LONG = ", ".join([CAPTION] * 3)
IMAGES = np.random.default_rng(0).integers(0, 256, (16, 84, 84, 3), dtype=np.uint8)
PAIRS = 200
GROUPS = [("two cats", 0, 3), ("a dog", 2, 2), ("a red circle", 4, 4)]  # caption, first, count
LISTENER = ListenerSpec(None, "continue")  # the reasoner itself


def opened(batch_size: int = 16, **options) -> RewardModel:
    mesh = make_mesh(devices=jax.devices()[:1])
    return RewardModel.from_pretrained("tiny", batch_size=batch_size, mesh=mesh, **options)


@pytest.fixture(scope="module")
def model() -> RewardModel:
    warm = opened(listener=LISTENER)
    warm.warm_up()
    return warm


@pytest.fixture(scope="module")
def alone() -> RewardModel:
    """Without a listener, and of another batch."""
    return opened(batch_size=8)


def row(first: int, second: int, caption: str = CAPTION) -> dict:
    return {"caption": caption, "first": IMAGES[first], "second": IMAGES[second]}


# What comes out, whatever the weights


def test_rows_are_compared_in_their_order_whatever_their_shape():
    model, reader = stub_model()
    rows = [row(i, i + 1, LONG if i % 3 == 1 else CAPTION) for i in range(11)]
    alone = [model.compare(**x) for x in rows]
    reader.sizes.clear()
    assert list(model.compare_many(iter(rows))) == alone
    assert sorted(reader.sizes) == [3, 4, 4]
    assert len({x.probability for x in alone}) == len(rows)


def test_a_bad_row_is_named_or_returned_in_its_place():
    model, _ = stub_model()
    rows = [row(0, 1), {"caption": CAPTION, "first": "nowhere.png", "second": IMAGES[0]}, row(1, 2)]
    with pytest.raises(ImageError, match="first 'nowhere.png': no such file") as caught:
        list(model.compare_many(rows))
    assert "in row 1, counted from 0" in caught.value.__notes__
    one, error, other = model.compare_many(rows, on_bad_row="return")
    assert isinstance(error, ImageError)
    assert [one, other] == list(model.compare_many([rows[0], rows[2]]))
    [error] = model.compare_many([{"caption": CAPTION, "image": 3}], on_bad_row="return")
    assert "no first, second; a row has caption, first, second" in str(error)


@pytest.mark.parametrize(
    "call, told",
    [
        (lambda m: m.compare(**row(0, 1), votes=0), "votes=0: at least one"),
        (lambda m: m.rank(caption=CAPTION, images=[IMAGES[0]]), "at least two images"),
        (lambda m: m.rank(caption=CAPTION, images="a.png"), "at least two images"),
        (lambda m: m.rank(caption=CAPTION, images=IMAGES, method="some"), "method='some'"),
        (lambda m: m.rank(caption=CAPTION, images=IMAGES, anchors=0), "anchors=0"),
        (lambda m: m.score(caption=CAPTION, image=IMAGES[0], anchors=[]), "at least one image"),
        (lambda m: list(m.compare_many([], on_bad_row="skip")), "on_bad_row='skip'"),
        (lambda m: m.compare(**row(0, 1, "word " * 40_000)), "its prompt has"),
    ],
)
def test_wrong_arguments_are_told(call, told):
    with pytest.raises(ValueError, match=told):
        call(stub_model()[0])


def test_arguments_cannot_be_exchanged_silently():
    model, _ = stub_model()
    with pytest.raises(TypeError, match="positional"):
        model.compare(CAPTION, IMAGES[0], IMAGES[1])
    with pytest.raises(TypeError, match="caption: expected a text, got ndarray"):
        model.compare(caption=IMAGES[0], first=CAPTION, second=IMAGES[1])
    with pytest.raises(TypeError, match="caption: expected a text"):
        model.rank(caption=None, images=IMAGES)


def test_a_ranking_does_not_depend_on_the_order_of_the_images():
    model, _ = stub_model()
    order = np.random.default_rng(1).permutation(8)
    for options in ({}, {"method": "anchors", "anchors": 3}):
        ranks = model.rank(caption=CAPTION, images=IMAGES[:8], **options)
        others = model.rank(caption=CAPTION, images=IMAGES[order], **options)
        assert [ranks.scores[i] for i in order] == list(others.scores)
        assert [order[i] for i in others.order] == list(ranks.order)


def test_groups_are_ranked_as_each_alone():
    model, reader = stub_model()
    groups = [{"caption": c, "images": IMAGES[i : i + n]} for c, i, n in GROUPS]
    alone = [model.rank(**group) for group in groups]
    reader.sizes.clear()
    assert [*model.rank_many(iter(groups))] == alone
    assert sorted(reader.sizes) == [2, 4, 4]  # of 3, 1 and 6 comparisons


def test_rewards_are_win_shares_in_the_order_of_the_images():
    model, _ = stub_model()
    captions = [c for c, _, n in GROUPS for _ in range(n)]
    images = [image for _, i, n in GROUPS for image in IMAGES[i : i + n]]
    scores = [
        x for c, i, n in GROUPS for x in model.rank(caption=c, images=IMAGES[i : i + n]).scores
    ]
    mixed = np.random.default_rng(3).permutation(len(images))
    rewards = PreferenceReward(model)([images[i] for i in mixed], [captions[i] for i in mixed])
    assert rewards.tolist() == np.array(scores, np.float32)[mixed].tolist()

    references = {GROUPS[0][0]: IMAGES[8:10]}
    rewards = PreferenceReward(model, references=references)(images, captions)
    score = model.score(caption=captions[1], image=images[1], anchors=IMAGES[8:10]).score
    assert rewards[1] == np.float32(score)
    assert rewards[3:].tolist() == np.array(scores, np.float32)[3:].tolist()


def test_rewards_by_references_are_scores_whose_comparisons_share_batches():
    model, reader = stub_model()
    references, images = IMAGES[8:10], IMAGES[:2]
    scores = [model.score(caption=CAPTION, image=x, anchors=references).score for x in images]
    reader.sizes.clear()
    rewards = PreferenceReward(model, references={CAPTION: references})(images, [CAPTION] * 2)
    assert rewards.tolist() == np.array(scores, np.float32).tolist()
    assert reader.sizes == [4]


def test_a_caption_longer_than_what_is_read_is_told():
    model, reader = stub_model()
    model._encoder = dataclasses.replace(model._encoder, longest=0)  # the training's own
    model.compare(**row(0, 1))
    with pytest.raises(PromptTooLong, match=r"caption: its prompt has [\d,]+ tokens, .* most \d+"):
        model.compare(**row(0, 1, LONG * 40))
    assert reader.sizes == [1]


@pytest.mark.parametrize(
    "call, told",
    [
        (lambda m: m.rank(caption="a", images=Path("a.png")), "images: a ranking needs a list"),
        (lambda m: m.rank(caption="a", images=iter(IMAGES)), "images: a ranking needs a list"),
        (lambda m: m.rank(caption="a", images=IMAGES, anchors=1), "anchors=1: say method="),
        (lambda m: m.rank(caption="a", images=IMAGES, method="anchors", anchors=0), "anchors=0"),
        (lambda m: m.score(caption="a", image=IMAGES[0], anchors=None), "anchors: a score needs"),
        (lambda m: m.compare(**row(0, 1), votes=1.5), "votes=1.5: expected a whole number"),
        (lambda m: PreferenceReward(m, method="x"), "method='x' is neither"),
    ],
)
def test_arguments_that_are_none_are_told(call, told):
    with pytest.raises((TypeError, ValueError), match=told):
        next(iter(call(stub_model()[0])))


def test_what_is_wrong_with_many_is_told_before_anything_is_asked():
    model, reader = stub_model()
    with pytest.raises(ValueError, match="votes=0"):
        model.rank_many([], votes=0)
    with pytest.raises(ValueError, match="method='none' is neither"):
        model.rank_many([], method="none")
    with pytest.raises(ValueError, match="votes=0"):
        model.score_many([], votes=0)
    assert not reader.sizes


@pytest.mark.parametrize(
    "images, captions, told",
    [
        (IMAGES[:2], "a red circle", "captions: a single text, for 2 images"),
        (IMAGES[:2], ["a red circle"], "captions: 1, for 2 images"),
        (IMAGES[:3], ["a", "b", "a"], r"images\[1\]: no other image of its caption"),
    ],
)
def test_rewards_without_a_meaning_are_refused(images, captions, told):
    with pytest.raises(ValueError, match=told):
        PreferenceReward(stub_model()[0])(images, captions)
    with pytest.raises(ValueError, match="references: there is no image of 'a'"):
        PreferenceReward(stub_model()[0], references={"a": []})


def test_images_of_one_ranking_are_shown_in_one_grid():
    policy, vision = tiny_encoder().policy, tiny_encoder().prompts[0].config.vision
    assert shown_grids([(84, 84)] * 8, policy, vision) == [(6, 6)] * 8
    grids = shown_grids([(56, 112), (112, 56), (84, 84)], policy, vision)
    assert len(set(grids)) == 1
    apart = dataclasses.replace(policy, one_grid=False)
    assert len(set(shown_grids([(56, 112), (112, 56)], apart, vision))) == 2


# The built-in model


def test_examples_of_docstrings(model):
    given = {"model": model, "image": IMAGES[0], "other": IMAGES[1]}
    given |= {"RewardModel": RewardModel, "PreferenceReward": PreferenceReward}
    finder = doctest.DocTestFinder(exclude_empty=True)
    found = [
        test
        for module in (reward_model, results, preference_reward)
        for test in finder.find(module, globs=given)
        if test.examples
    ]
    names = {test.name.rpartition(".")[2] for test in found}
    public = {name for name, x in vars(RewardModel).items() if name[0] != "_"}
    assert names >= public - {"batch_size"}
    for test in found:
        assert doctest.DocTestRunner().run(test).failed == 0


def test_swaps_of_the_built_in_model_are_exact(alone):
    picks = np.random.default_rng(2).integers(0, len(IMAGES), (PAIRS, 2)).tolist()
    given = list(alone.compare_many(row(a, b) for a, b in picks))
    swapped = list(alone.compare_many(row(b, a) for a, b in picks))
    for (a, b), one, other in zip(picks, given, swapped, strict=True):
        assert one.probability == 1 - other.probability
        assert a != b or one.probability == 0.5
        assert one.traces == other.traces[::-1]
    assert len({x.probability for x in given}) > PAIRS / 4


@pytest.mark.parametrize("votes", [1, 2])
def test_neighbours_and_the_place_in_a_batch_change_no_bit(model, votes):
    lonely = model.compare(**row(0, 1), votes=votes)
    rows = [row(i, i + 2) for i in range(7)] + [row(0, 1)] + [row(3, 1)]
    assert list(model.compare_many(rows, votes=votes))[7] == lonely
    assert lonely.probability == 1 - model.compare(**row(1, 0), votes=votes).probability
    assert (lonely.standard_error is None) == (votes == 1)


def test_threads_that_share_batches_get_the_answers_of_the_model(model):
    rows = [row(i, (i + 3) % 16) for i in range(16)] * 2
    expected = list(model.compare_many(rows))
    with model.shared() as shared, concurrent.futures.ThreadPoolExecutor(32) as pool:
        assert list(pool.map(lambda x: shared.compare(**x), rows)) == expected


def test_votes_are_sampled(model):
    two = model.compare(**row(0, 1), votes=2)
    assert [len(traces) for traces in two.traces] == [2, 2]
    assert two.traces[0][0] != two.traces[0][1]


def test_the_size_of_a_batch_changes_little(model, alone):
    for a, b in ((0, 1), (2, 3), (4, 5)):
        one, other = (x.compare(**row(a, b)) for x in (model, alone))
        assert one.traces == other.traces
        assert abs(one.probability - other.probability) < 1e-5
        assert other.listener_probability is None and other.contradiction is None


def test_a_ranking_encodes_each_image_once(model):
    before = model.images_encoded
    ranks = model.rank(caption=CAPTION, images=IMAGES[:8])
    assert model.images_encoded - before == 8 and ranks.comparisons == 28
    assert ranks.probabilities[2][5] == model.compare(**row(2, 5)).probability
    assert sum(ranks.scores) == pytest.approx(4)


def test_nothing_is_compiled_once_it_is_warm(model):
    model.warm_up()
    with Monitor() as monitor:
        model.compare(**row(6, 9, "two green squares"))
        list(model.compare_many([row(i, 15 - i) for i in range(5)]))
        model.rank(caption=CAPTION, images=IMAGES[3:8])
        assert monitor.take(1)["compilations"] == 0


def test_a_listener_is_asked(model):
    result = model.compare(**row(0, 1))
    readings = [x for order in result.readings for x in order]
    assert all(0 < x.listener_probability < 1 for x in readings)
    # It is the reasoner itself, and reads what that has written.
    for reading in readings:
        assert reading.listener_probability == pytest.approx(reading.probability, abs=1e-3)


def test_an_appended_answer_is_read_where_the_models_own_would_be(model):
    request = model._request(row(0, 1), 1)
    read = [
        model._reader.read([request], model._reader.feature_cache(), force=force)[0]
        for force in (False, True)
    ]
    assert [x.forced for x in read] == [0, 2]
    assert read[0].traces == read[1].traces
    assert read[0].probability == pytest.approx(read[1].probability, abs=1e-5)


# Answers that are appended


TOKENIZER = load_tokenizer(assets.tiny_model())
STOP_IDS = stop_token_ids(assets.tiny_model(), TOKENIZER)
ANSWER_IDS = tuple(token_ids(TOKENIZER, digit)[0] for digit in "12")


@pytest.mark.parametrize(
    "text, done, kept, trace",
    [
        ("<think>a cat sat", False, "<think>a cat sat", "a cat sat"),
        ("<think>a cat.</think> sat", True, "<think>a cat.", "a cat."),
        ("<think>a cat</think><answer>", False, "<think>a cat", "a cat"),
        ("<think>a cat</think><answer>3</answer>", True, "<think>a cat", "a cat"),
        ("a cat", True, "a cat", "a cat"),
        ("", True, "", ""),
    ],
)
def test_a_trace_without_an_answer_gets_one(text, done, kept, trace):
    ids = token_ids(TOKENIZER, text) + [STOP_IDS[0]] * done
    sampling = SamplingConfig(len(ids), STOP_IDS)
    blank = np.zeros((1, 1, len(ids)), np.float32)
    length, done = np.full((1, 1), len(ids), np.int32), np.full((1, 1), done)
    rollout = Rollout(np.array(ids, np.int32)[None, None], blank, blank, length, done, blank)
    forcing = Forcing(TOKENIZER, ANSWER_IDS, sampling)
    answers = read_answers(rollout, TOKENIZER, forcing.width)
    assert answers.forced.all()
    opened = forcing.open_answers(answers)
    start = opened.completions.answer_position[0, 0]
    read = TOKENIZER.decode(opened.rollout.tokens[0, 0, :start])
    assert read == f"{kept}</think><answer>"
    closed = forcing.close_answers(opened, np.full((1, 1), 0.25, np.float32))
    assert closed.completions.texts[0][0] == f"{kept}</think><answer>2</answer>"
    assert closed.completions.traces[0][0] == trace and closed.probability[0, 0] == 0.25


# How a model is to be asked


def test_settings_are_those_that_the_model_was_trained_with(tmp_path):
    folder = shutil.copytree(assets.tiny_model(), tmp_path / "tiny")
    vision = read_config(folder).vision
    settings = read_settings(folder, vision)
    assert (settings.prompt_tokens, settings.completion_length) == (112, 72)
    content = json.loads((folder / SETTINGS).read_bytes())
    content["images"]["max_patches"] = 32
    (folder / SETTINGS).write_text(json.dumps(content))
    with pytest.raises(ValueError, match=f"{SETTINGS}.*changed.*restore it"):
        read_settings(folder, vision)
    (folder / SETTINGS).unlink()
    assert read_settings(folder, vision).completion_length == 256


def test_a_batch_must_divide_over_the_devices():
    with pytest.raises(ValueError, match="batch_size=1: 4 devices share .* a multiple of 2"):
        RewardModel.from_pretrained("tiny", batch_size=1)
