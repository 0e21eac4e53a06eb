"""Drawn scenes: what captions ask for, what images show, what traces say, and the files."""

import dataclasses
import itertools
import json
import re
import shutil
from collections import Counter

import jax
import numpy as np
import pytest
from PIL import Image

from lrt_jax import assets
from lrt_jax.config import ConfigError, default_config, parse_config
from lrt_jax.config.checks import AT_MOST
from lrt_jax.config.scenes import TRACES, TRUTH, Corruption, ScenesOptions
from lrt_jax.data.dataset.prepared_set import PreparedSet
from lrt_jax.data.input.patches import read_image_policy
from lrt_jax.data.input.pipeline import PairEncoder, train_loader
from lrt_jax.data.input.prompts import PromptEncoder, parse
from lrt_jax.data.input.tokenizer import load_tokenizer
from lrt_jax.data.preparation.prepare import prepare
from lrt_jax.data.scenes import render, traces, world
from lrt_jax.data.scenes.samples import scene_groups
from lrt_jax.data.scenes.write import write_scenes
from lrt_jax.data.sources import SourceError, read_source
from lrt_jax.evaluation.scene_truth import find_truth
from lrt_jax.models import read_config

SMALL_RED_CIRCLE_LEFT = (0, 0, 0, 0)
LARGE_BLUE_CROSS_RIGHT = (1, 2, 3, 2)
SMALL = ScenesOptions(train=12, validation=8, test=4, traces=2, three_objects=0.25)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    return write_scenes(tmp_path_factory.mktemp("scenes") / "scenes", SMALL)


@pytest.fixture(scope="module")
def prepared(drawn, tmp_path_factory):
    folder = tmp_path_factory.mktemp("prepared") / "scenes"
    prepare("scenes", drawn, folder)
    return PreparedSet(folder)


# What captions ask for


def test_captions():
    two = np.array([SMALL_RED_CIRCLE_LEFT, LARGE_BLUE_CROSS_RIGHT])
    assert world.caption(two) == (
        "a small red circle on the left above a large blue cross on the right"
    )
    assert world.caption(two[[1, 1]]) == "two large blue crosses on the right"
    three = np.array([SMALL_RED_CIRCLE_LEFT, (0, 1, 1, 1), LARGE_BLUE_CROSS_RIGHT])
    assert world.caption(three) == (
        "a small red circle on the left above a small green square in the middle "
        "above a large blue cross on the right"
    )


def test_scores_are_by_what_is_asked_of_each_row():
    asked = np.array([[SMALL_RED_CIRCLE_LEFT, LARGE_BLUE_CROSS_RIGHT]] * 5)
    shown = world.Scenes(
        objects=np.array(
            [
                [SMALL_RED_CIRCLE_LEFT, LARGE_BLUE_CROSS_RIGHT],  # both as asked
                [(0, 0, 0, 1), LARGE_BLUE_CROSS_RIGHT],  # one in the wrong column
                [(0, 0, 1, 1), LARGE_BLUE_CROSS_RIGHT],  # one with two attributes wrong
                [SMALL_RED_CIRCLE_LEFT, LARGE_BLUE_CROSS_RIGHT],  # one was left out
                [LARGE_BLUE_CROSS_RIGHT, SMALL_RED_CIRCLE_LEFT],  # the wrong way round
            ]
        ),
        there=np.array([[True, True]] * 3 + [[True, False], [True, True]]),
        quality=np.array([world.SHARP, world.SHARP, 1, 2, world.SHARP]),
    )
    assert world.scores(asked, shown).tolist() == [5, 4, 2, 2, 1]


def test_groups_have_different_scores_and_keep_out_what_is_held_out():
    rng = np.random.default_rng(0)
    asked = world.draw_asked(rng, 200, 2, False)
    scenes, scores = world.draw_groups(rng, asked, 4, False)
    assert not world.is_held_out(asked).any() and not world.is_held_out(scenes.objects).any()
    assert all(len(set(row)) == 4 for row in scores.tolist())
    np.testing.assert_array_equal(world.scores(np.repeat(asked, 4, 0), scenes), scores.ravel())
    other = world.draw_asked(rng, 200, 2, True)
    assert world.is_held_out(other).any(axis=1).all()


def test_more_images_than_there_are_scores_are_refused():
    groups = [*scene_groups(2, images=8, objects=3)]
    assert [images.shape[0] for _, images in groups] == [8, 8]
    with pytest.raises(ValueError, match="7 images: scenes of such captions have 6 scores"):
        next(scene_groups(1, images=7))


# What images show


def test_a_scene_is_painted_where_and_as_it_is():
    scenes = world.Scenes(
        objects=np.array([[SMALL_RED_CIRCLE_LEFT] * 2 + [LARGE_BLUE_CROSS_RIGHT]]),
        there=np.array([[False, False, True]]),
        quality=np.array([world.SHARP]),
    )
    (pixels,) = render.paint(np.random.default_rng(0), scenes)
    middle = pixels[2 * 28 + 14, 2 * 28 + 14]
    assert np.abs(middle.astype(int) - render.RGB[2]).max() < 2
    blue = (pixels[..., 2].astype(int) - pixels[..., 0]) > 100
    inside = np.zeros_like(blue)
    inside[56:, 56:] = True
    assert blue.any() and not (blue & ~inside).any()


def test_large_is_larger_and_shapes_differ():
    objects = np.array([[(size, 0, shape, 1)] for size in (0, 1) for shape in range(4)])
    n = len(objects)
    scenes = world.Scenes(objects, np.ones((n, 1), bool), np.zeros(n, int))
    pixels = render.paint(np.random.default_rng(0), scenes).astype(int)
    area = (pixels[..., 0] - pixels[..., 1] > 80).sum(axis=(1, 2)).reshape(2, 4)
    assert (area[1] > 2 * area[0]).all()
    assert len(set(area[1])) == 4


@pytest.mark.parametrize("quality", range(1, len(world.QUALITIES)))
def test_a_spoilt_picture_differs_from_a_sharp_one(quality):
    def painted(q):
        scenes = world.Scenes(
            np.array([[LARGE_BLUE_CROSS_RIGHT]]), np.array([[True]]), np.array([q])
        )
        return render.paint(np.random.default_rng(3), scenes).astype(float)

    assert np.abs(painted(quality) - painted(world.SHARP)).mean() > 1


# What traces say


def content(*objects, quality=world.SHARP):
    return traces.Content(objects, quality)


def test_a_true_trace():
    asked = np.array([SMALL_RED_CIRCLE_LEFT, LARGE_BLUE_CROSS_RIGHT])
    first = content(SMALL_RED_CIRCLE_LEFT, (1, 2, 3, 1))
    second = content((1, 4, 1, 1), None, quality=1)
    text = traces.write_completion(np.random.default_rng(0), asked, first, second, Corruption())
    assert text == (
        "<think>First: small red circle left yes, large blue cross but middle near, sharp, four. "
        "Second: but large but purple but square but middle no, none, blurry, zero.</think>"
        "<answer>1</answer>"
    )
    nothing = traces.write_completion(
        np.random.default_rng(0), asked, content(None, None, quality=3), first, Corruption()
    )
    assert nothing.startswith("<think>First: none, none, dark, zero. Second: small red circle left")
    assert parse(nothing).choice == 1


def test_slips_come_at_their_rates_and_what_follows_follows():
    asked = np.array([SMALL_RED_CIRCLE_LEFT, LARGE_BLUE_CROSS_RIGHT])
    first = content(SMALL_RED_CIRCLE_LEFT, None)
    second = content(None, (1, 2, 3, 1), quality=2)
    rng = np.random.default_rng(0)

    def share(corruption, pattern):
        texts = [
            traces.write_completion(rng, asked, first, second, corruption) for _ in range(2000)
        ]
        return np.mean([re.search(pattern, text) is not None for text in texts])

    intact = "First: small red circle left"
    assert share(Corruption(description=0.3), intact) == pytest.approx(0.7, abs=0.04)
    assert share(Corruption(description=0.3), f"{intact} yes") == pytest.approx(0.7, abs=0.04)
    assert share(Corruption(description=1.0), r"First: [a-z ]*but [a-z ]+ near, none") == 1.0
    assert share(Corruption(mark=0.2), f"{intact} yes") == pytest.approx(0.8, abs=0.04)
    assert share(Corruption(quality=0.2), "First.* sharp.*Second") == pytest.approx(0.8, abs=0.04)
    assert share(Corruption(score=0.2), "sharp, three") == pytest.approx(0.8, abs=0.04)
    near_and_noisy = "Second: none, large blue cross but middle near, noisy, one"
    assert share(Corruption(), near_and_noisy) == 1.0
    assert share(Corruption(leniency=0.5), "middle yes, ") == pytest.approx(0.5, abs=0.04)
    assert share(Corruption(flattery=0.5), "near, sharp") == pytest.approx(0.5, abs=0.04)
    both = Corruption(leniency=1.0, flattery=1.0)
    assert share(both, "middle yes, sharp, three") == 1.0
    assert share(Corruption(answer=0.2), "<answer>1") == pytest.approx(0.8, abs=0.04)
    assert share(Corruption(), "<answer>1") == 1.0


def truth_of(trace, first, second):
    hits, said = traces.check(trace, first, second)
    return hits / said if said else np.nan


def test_truth_of_a_trace():
    first, second = ["small red circle left", "small red circle left"], ["large blue cross right"]
    true = "First: " + "small red circle left yes, " * 2 + "one. Second: large blue cross right no"
    assert truth_of(true, first, second) == 1.0
    assert truth_of(true.replace("red circle", "but red circle"), first, second) == 1.0
    # said of the other image, said once too often, and not there at all
    assert truth_of("First: large blue cross right. Second: ", first, second) == 0.0
    thrice = "First: " + "small red circle left yes, " * 3
    assert truth_of(thrice, first, second) == pytest.approx(2 / 3)
    assert truth_of("Second: large red cross right, four", first, second) == 0.0
    assert np.isnan(truth_of("the first is better", first, second))
    assert np.isnan(truth_of("small red circle left", first, second))  # of which image?


# The files


def test_the_layout_is_imagerewards(drawn):
    one, other = (read_source(source, drawn) for source in ("imagereward", "scenes"))
    assert one.groups == other.groups
    assert {group.split for group in one.groups} == {
        "train",
        "validation",
        "test_combinations",
        "test_objects",
    }
    for group in one.groups:
        assert len(group.images) == 4
        assert Image.open(drawn / group.images[0].file).size == (84, 84)


def test_captions_of_training_and_evaluation_never_meet(drawn, tmp_path):
    elsewhere = write_scenes(tmp_path / "scenes", dataclasses.replace(SMALL, seed=7, train=200))
    trained = {g.prompt for g in read_source("scenes", elsewhere).groups if g.split == "train"}
    held_out = {g.prompt for g in read_source("scenes", drawn).groups if g.split != "train"}
    assert len(trained) == 200 and not trained & held_out


def test_equal_options_give_equal_files(drawn, tmp_path):
    again = write_scenes(tmp_path / "scenes", SMALL)
    names = [p.relative_to(drawn) for p in sorted(drawn.rglob("*")) if p.is_file()]
    assert names == [p.relative_to(again) for p in sorted(again.rglob("*")) if p.is_file()]
    assert all((drawn / name).read_bytes() == (again / name).read_bytes() for name in names)
    assert write_scenes(again, SMALL) == again  # found, and not drawn anew
    with pytest.raises(FileExistsError, match="other options"):
        write_scenes(again, dataclasses.replace(SMALL, seed=1))


def test_an_interrupted_drawing_leaves_nothing(tmp_path, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("lrt_jax.data.scenes.write.to_png", stop)
    with pytest.raises(KeyboardInterrupt):
        write_scenes(tmp_path / "scenes", SMALL)
    assert list(tmp_path.iterdir()) == []


def test_better_scenes_are_ranked_better_mostly(drawn):
    known = [json.loads(line) for line in (drawn / "truth.jsonl").open()]
    sharp = {line["image"]: line["quality"] == "sharp" for line in known}
    groups = read_source("scenes", drawn).groups
    ranks = {True: [], False: []}
    for group in groups:
        for ref, rank in zip(group.images, group.ranks, strict=True):
            ranks[sharp[ref.file]].append(rank)
    assert np.mean(ranks[True]) < np.mean(ranks[False])


def test_a_share_of_the_answers_to_imitate_comes_without_a_trace(tmp_path):
    options = dataclasses.replace(SMALL, validation=1, test=1, traces=2, bare=0.25)
    folder = write_scenes(tmp_path / "scenes", options)
    lines = [json.loads(line) for line in (folder / TRACES).open()]
    bare = [re.fullmatch("<think></think><answer>[12]</answer>", x["completion"]) for x in lines]
    assert np.mean([x is not None for x in bare]) == pytest.approx(0.25, abs=0.07)


def test_traces_are_of_every_training_pair_in_both_orders(drawn, prepared):
    lines = [json.loads(line) for line in (drawn / "traces.jsonl").open()]
    said = {(line["pair"], line["swapped"]) for line in lines}
    uids = {prepared.pair(row).uid for row in prepared.rows("train")}
    assert said == {(uid, swapped) for uid in uids for swapped in (False, True)}
    assert len(lines) == 2 * len(said)
    assert all(parse(line["completion"]).well_formed for line in lines)


def test_images_that_the_truth_says_nothing_of_are_told_by_its_file(prepared, tmp_path):
    folder = shutil.copytree(prepared.folder, tmp_path / "set")
    (folder / TRUTH).write_text("")
    truth = find_truth(PreparedSet(folder))
    with pytest.raises(ValueError, match=rf"set/{TRUTH}: .*; copy the prepared set again"):
        truth.score(np.array([0]), np.array([False]), [["First: a large blue cross."]])


def test_written_traces_are_true_of_the_images_they_are_about(drawn, prepared):
    truth = find_truth(prepared)
    lines = [json.loads(line) for line in (drawn / "traces.jsonl").open()]
    rows = {prepared.pair(row).uid: row for row in prepared.rows("train")}
    pairs = np.array([rows[line["pair"]] for line in lines])
    swapped = np.array([line["swapped"] for line in lines])
    said = [[parse(line["completion"]).trace] for line in lines]
    judged = truth.score(pairs, swapped, said)
    assert np.nanmin(judged["trace_truth"]) == 1.0
    assert judged["trace_objects"].mean() > 3
    assert np.nanmean(truth.score(pairs, ~swapped, said)["trace_truth"]) < 0.7
    # without slips the preferred image is that of the higher score, up to noise among the raters
    hits = [
        parse(line["completion"]).choice == (prepared.pair(row).label ^ line["swapped"])
        for line, row in zip(lines, pairs, strict=True)
        if prepared.pair(row).label in (0, 1)
    ]
    assert np.mean(hits) > 0.9


def test_ground_truth_and_traces_never_reach_a_batch(prepared, tmp_path):
    """What a model is given is the same when these files say something else."""
    folder = assets.tiny_model()
    model = read_config(folder)
    encoder = PairEncoder(
        policy=read_image_policy(folder, model.vision, 64),
        vision=model.vision,
        prompt=PromptEncoder(load_tokenizer(folder), model, "reason", 160, 64),
    )
    lying = tmp_path / "lying"
    shutil.copytree(prepared.folder, lying)
    for name in (TRUTH, TRACES):
        (lying / name).write_text('{"objects": ["large purple square left"]}\n')
    batches = []
    for data in (prepared, PreparedSet(lying)):
        with train_loader(data, encoder, split="train", batch_size=8, seed=0) as loader:
            batches.append(next(loader))
    one, other = map(jax.tree.leaves, batches)
    assert len(one) > 8
    assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def test_no_more_captions_are_asked_for_than_there_are():
    things = np.stack(np.meshgrid(*(range(len(n)) for n in world.ATTRIBUTES), indexing="ij"), -1)
    things = things.reshape(-1, 4)
    held_out = world.is_held_out(things)
    known, new = things[~held_out], things[held_out]

    def count(pairs, of_evaluation):
        texts = (world.caption(np.stack(pair)) for pair in pairs)
        return sum(world.is_held_out_caption(text) == of_evaluation for text in texts)

    pairs = list(itertools.product(known, known))
    there_are = {
        "data.scenes.train": count(pairs, False),
        "data.scenes.validation": count(pairs, True),
        "data.scenes.test": count(
            [*itertools.product(new, known), *((thing, thing) for thing in new)], True
        ),
    }
    for field, limit in AT_MOST.items():
        assert 0.7 * there_are[field] <= limit <= 0.85 * there_are[field], there_are


@pytest.mark.parametrize(
    "changes", [{"images": 2}, {"three_objects": 1.0}, {"three_objects": 0.0, "test": 0}]
)
def test_options_at_their_ends(changes, tmp_path):
    options = dataclasses.replace(SMALL, **changes)
    groups = read_source("scenes", write_scenes(tmp_path / "scenes", options)).groups
    splits = Counter(group.split for group in groups)
    assert splits["train"] == 12 and splits["test_objects"] == options.test
    assert all(len(group.images) == options.images for group in groups)
    threes = sum(group.prompt.count(" a ") + group.prompt.startswith("a ") > 2 for group in groups)
    assert (threes > 0) == (options.test > 0)


def test_a_folder_of_other_data_is_no_scenes(tmp_path):
    (tmp_path / "test.json").write_text("[]")
    with pytest.raises(SourceError, match="no truth.jsonl"):
        read_source("scenes", tmp_path)


def test_options_out_of_range_are_told_together():
    values = default_config()
    values.data.source = "scenes"
    values.data.scenes.images = 7
    values.data.scenes.corruption.mark = 1.5
    values.data.scenes.train = 0
    values.data.scenes.test = 10_000
    with pytest.raises(ConfigError) as error:
        parse_config(values)
    for field in ("data.scenes.images", "data.scenes.corruption.mark", "data.scenes.train"):
        assert field in str(error.value)
    assert "data.scenes.test: 10000 captions are more than the 550" in str(error.value)
