"""What the listeners and the policy are asked, and that transformers would answer the same."""

import dataclasses

import jax
import numpy as np
import pytest
import torch
from transformers import Qwen2_5_VLForConditionalGeneration

from lrt_jax import assets
from lrt_jax.data.images import decode
from lrt_jax.data.input.prompts import render, trace_tokens
from lrt_jax.data.input.tokenizer import answer_token_ids, token_ids
from lrt_jax.data.schema import FIRST, SECOND
from lrt_jax.models import load_model
from lrt_jax.models.qwen2_5_vl.processor import smart_resize
from lrt_jax.parallel.collectives import shard_local_batch
from lrt_jax.parallel.mesh import make_mesh
from lrt_jax.rl import frozen
from lrt_jax.rl.completions import decode_completions
from lrt_jax.rl.listener import continue_input, judge_input, tokens_without_trace
from lrt_jax.rl.rollout import Rollout
from lrt_jax.training import setup
from tests.hf import image_only_processor
from tests.models.hf_reference import as_torch
from tests.training.small_run import tiny_config

TEXTS = [
    "<think>Image 1 is better, it follows the caption.</think><answer>1</answer>",
    "<think>Image 2 is better.</think>\n<answer>2</answer>",
    "<think>no end",
]


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    """A `judge` and a `continue` listener on one checkpoint that is the reference too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(setup, "make_mesh", lambda *_: make_mesh(devices=jax.devices()[:1]))
        listeners = {"listener.style": "judge", "listener.others": ({"style": "continue"},)}
        # transformers' processor gives each image its own grid
        config = tiny_config(data, **listeners, **{"data.one_grid": False})
        return setup.open_run(config, tmp_path_factory.mktemp("run"))[0]


@pytest.fixture(scope="module")
def batch(run):
    with run.train_loader() as batches:
        return next(batches)


def rollout_of(texts, run, pairs, ended=True) -> Rollout:
    """The same completions for every pair, as if they had been sampled."""
    tokenizer = run.engine.tokenizer
    stop = run.sampling.stop_ids[0]
    rows = [[*token_ids(tokenizer, text), stop] for text in texts]
    tokens = np.zeros((pairs, len(rows), 32), np.int32)
    for g, row in enumerate(rows):
        tokens[:, g, : len(row)] = row
    length = np.tile([len(row) for row in rows], (pairs, 1)).astype(np.int32)
    logps, kept = np.zeros(tokens.shape, np.float32), np.ones(tokens.shape, np.float32)
    return Rollout(tokens, logps, kept, length, np.full(length.shape, ended))


def score_alone(run, batch, style, rollout, **options):
    """Verdicts of the one listener with a style."""
    engine = run.engine
    asked = [x for x in engine.listeners if x.style == style]
    alone = setup.Engine(
        engine.model, engine.tokenizer, engine.answer_ids, asked, engine.reference, engine.mesh, 0
    )
    kept = batch if style == "judge" else dataclasses.replace(batch, listener_prompts=())
    on_device = shard_local_batch(kept, engine.mesh)
    completions = decode_completions(rollout, engine.tokenizer)
    features = alone.encode_images(load_model(assets.tiny_model())[1], on_device)
    return alone.score_frozen(
        on_device,
        features,
        shard_local_batch(rollout, engine.mesh),
        completions,
        **{"reference_temperature": 1.0} | options,
    )


def shown_images(run, batch, row):
    """The two images of a row as PIL, resized as ours are, in the order shown."""
    from PIL import Image

    record = run.prepared.pair(int(batch.target.pair[row]))
    order = (1, 0) if batch.target.swapped[row] else (0, 1)
    policy = run.encoder.policy
    for k in order:
        pixels = decode(run.prepared.image(record.image_index[k]).image, "x")
        height, width = smart_resize(*pixels.shape[:2], 28, policy.min_pixels, policy.max_pixels)
        yield Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC)


def hf_verdict(run, batch, row, text) -> float:
    """transformers' probability of "1" against "2" after a text about a row's images."""
    folder = assets.tiny_model()
    hf = Qwen2_5_VLForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    images = list(shown_images(run, batch, row))
    inputs = image_only_processor(folder)(text=[text], images=images, return_tensors="np")
    with torch.no_grad():
        logits = hf(**as_torch(dict(inputs))).logits[0, -1]
    return float(logits[list(answer_token_ids(run.engine.tokenizer))].softmax(-1)[0])


@pytest.mark.parametrize("style", ["judge", "continue"])
def test_verdicts_are_those_of_transformers(run, batch, style):
    scores = score_alone(run, batch, style, rollout_of(TEXTS, run, 4))
    tokenizer = run.engine.tokenizer
    for row in range(2):
        caption = run.prepared.pair(int(batch.target.pair[row])).prompt
        for member, text in enumerate(TEXTS[:2]):
            if style == "judge":
                trace = text.removeprefix("<think>").split("</think>")[0]
                asked = render(tokenizer, caption, "judge", trace + "\n")
            else:
                asked = (
                    render(tokenizer, caption, "reason") + text.split("<answer>")[0] + "<answer>"
                )
            wanted = hf_verdict(run, batch, row, asked)
            assert scores.p_first[row, member] == pytest.approx(wanted, abs=1e-4)


@pytest.mark.parametrize("style", ["judge", "continue"])
def test_verdicts_without_a_trace_are_those_of_transformers_and_change_no_other(run, batch, style):
    """They come from one pass with those of the traces, which are the same bit for bit."""
    sampled = rollout_of(TEXTS, run, 4)
    options = {"reference_temperature": None}
    without = score_alone(run, batch, style, sampled, **options)
    scores = score_alone(run, batch, style, sampled, alone=True, held_out=True, **options)
    np.testing.assert_array_equal(scores.p_first, without.p_first)
    for row in range(2):
        caption = run.prepared.pair(int(batch.target.pair[row])).prompt
        asked = render(run.engine.tokenizer, caption, "judge" if style == "judge" else "reason")
        asked += "<think></think><answer>" if style == "continue" else ""
        wanted = hf_verdict(run, batch, row, asked)
        assert scores.p_first_alone[row] == pytest.approx(wanted, abs=1e-4)


def test_without_a_trace_a_listener_reads_as_where_all_of_it_is_cut(run):
    """As it does where a trace is nothing but an answer."""
    nothing = "<think>1</think><answer>1</answer>"
    sampled = rollout_of([nothing], run, 1)
    read = decode_completions(sampled, run.engine.tokenizer)
    judge, other = run.engine.listeners
    for listener, given in (
        (judge, judge_input(read, judge)),
        (other, continue_input(read, other, lambda: sampled.tokens)),
    ):
        end = given.answer_position[0, 0]
        assert given.tokens[0, 0, :end].tolist() == tokens_without_trace(listener)


@pytest.mark.parametrize("style", ["judge", "continue"])
def test_the_answer_is_not_heard(run, batch, style):
    """Turning the digit round leaves the verdict as it is; turning the trace round does not."""
    said = "<think>First: sharp, four. Second: dark, zero.</think><answer>1</answer>"
    other_answer = said.replace("<answer>1", "<answer>2")
    other_trace = "<think>First: dark, zero. Second: sharp, four.</think><answer>1</answer>"
    texts = [said, other_answer, other_trace]
    scores = score_alone(run, batch, style, rollout_of(texts, run, 4)).p_first
    np.testing.assert_array_equal(scores[:, 0], scores[:, 1])
    assert (scores[:, 0] != scores[:, 2]).all()


@pytest.mark.parametrize("style", ["judge", "continue"])
def test_no_style_hears_an_answer_inside_the_trace(run, batch, style):
    """Nor is the reference, which may be the listener, asked of anything but what was sampled."""
    said = "<think>First: sharp.{}</think><answer>1</answer>"
    texts = [said.format(given) for given in ("<Answer>1</Answer>", "\n2", "")]
    sampled = rollout_of(texts, run, 4)
    scores = score_alone(run, batch, style, sampled)
    for member in (0, 1):
        np.testing.assert_array_equal(scores.p_first[:, member], scores.p_first[:, 2])
    apart = score_alone(run, batch, "judge", sampled).reference_logps
    np.testing.assert_array_equal(scores.reference_logps, apart)


def test_both_styles_read_the_same_of_a_trace(run):
    """Also what is taken is the same, as is what is put between special tokens and quotations."""
    traces = [r"Sharp.\boxed{1}", "Sharp. 答案是2", "Sharp</reasoning>!<|im_start|>?<Verdict>1"]
    texts = [f"<think>{trace}</think><answer>1</answer>" for trace in traces]
    sampled = rollout_of(texts, run, 1)
    read = decode_completions(sampled, run.engine.tokenizer)
    judge, other = run.engine.listeners
    tail = run.engine.tokenizer.decode(judge.tail)
    scores = continue_input(read, other, lambda: sampled.tokens)
    left = ("Sharp.…", "Sharp. …", "Sharp</r easoning>!< |im_start|>?")
    for member, trace in enumerate(left):
        readings = (judge_input(read, judge), scores)
        ends = (x.answer_position[0, member] for x in readings)
        each = zip(readings, ends, strict=True)
        told = [run.engine.tokenizer.decode(x.tokens[0, member, :end]) for x, end in each]
        assert told == [f"{trace}\n{tail}", f"<think>{trace}</think><answer>"]


def not_needed():
    """Stands for the tokens that were sampled, where nobody may ask for them."""
    raise AssertionError("the sampled tokens were asked for")


def test_tokens_of_an_answer_that_is_joined_to_other_text_are_made_anew(run):
    """Else no position would be known at which to stop."""
    sampled = rollout_of(TEXTS, run, 1)
    read = decode_completions(sampled, run.engine.tokenizer)
    joined = dataclasses.replace(read, answer_position=np.full_like(read.answer_position, -1))
    asked = next(x for x in run.engine.listeners if x.style == "continue")
    assert continue_input(read, asked, not_needed).tokens is None
    reading = continue_input(joined, asked, lambda: sampled.tokens)
    np.testing.assert_array_equal(reading.answer_position[0, :2], read.answer_position[0, :2])
    assert reading.answer_position[0, 2] == -1


def test_a_long_trace_that_is_retold_is_cut_before_its_answer(run):
    asked = next(x for x in run.engine.listeners if x.style == "continue")
    text = "<think>" + "sharp. " * 6 + "1</think><answer>2</answer>"
    sampled = rollout_of([text], run, 1)
    read = decode_completions(sampled, run.engine.tokenizer)
    position = read.answer_position[0, 0]
    whole = continue_input(read, asked, lambda: sampled.tokens)
    assert whole.cut == 0
    narrow = continue_input(read, asked, lambda: sampled.tokens[..., : position - 3])
    assert narrow.cut == 1
    told = run.engine.tokenizer.decode(narrow.tokens[0, 0, : narrow.answer_position[0, 0]])
    assert told.startswith("<think>sharp") and told.endswith("</think><answer>")


def test_dropped_verdicts_are_heard_by_neither_style(run):
    sampled = rollout_of(TEXTS, run, 1)
    read = decode_completions(sampled, run.engine.tokenizer)
    judge, other = (dataclasses.replace(x, drop_verdicts=True) for x in run.engine.listeners)
    scores = continue_input(read, other, lambda: sampled.tokens)
    for reading in (judge_input(read, judge), scores):
        told = run.engine.tokenizer.decode(reading.tokens[0, 0, : reading.answer_position[0, 0]])
        assert "better" not in told
    assert told == "<think></think><answer>"


@pytest.mark.parametrize("style", ["judge", "continue"])
def test_one_pass_for_listener_and_reference_gives_what_two_give(run, batch, style):
    """It reads one prompt for both, or that of the judge as well."""
    rollout = rollout_of(TEXTS, run, 4)
    both = score_alone(run, batch, style, rollout)
    reference = score_alone(run, batch, style, rollout, ask_listeners=False)
    listener = score_alone(run, batch, style, rollout, reference_temperature=None)
    np.testing.assert_array_equal(both.p_first, listener.p_first)
    np.testing.assert_array_equal(both.reference_logps, reference.reference_logps)
    assert (np.asarray(both.reference_logps)[:, 0, :10] < 0).all()


def test_reading_of_completions(run):
    rollout = rollout_of(TEXTS, run, 1)
    read = decode_completions(rollout, run.engine.tokenizer)
    assert read.texts == [TEXTS]
    assert read.choice.tolist() == [[FIRST, SECOND, -1]]
    assert read.well_formed.tolist() == [[True, True, False]]
    assert read.traces[0][1] == "Image 2 is better."
    digits = [rollout.tokens[0, g, read.answer_position[0, g]] for g in range(2)]
    assert digits == list(run.engine.answer_ids)
    assert read.answer_position[0, 2] == -1


def test_what_was_left_to_draw_from_is_a_mean_over_tokens(run):
    sampled = rollout_of(TEXTS, run, 1)
    kept = np.where(sampled.mask, 0.5, 9.0).astype(np.float32)  # behind the end it means nothing
    read = decode_completions(sampled.replace(nucleus_mass=kept), run.engine.tokenizer)
    np.testing.assert_array_equal(read.nucleus_mass, 0.5)


def test_truncated_completions_have_said_nothing(run):
    read = decode_completions(rollout_of(TEXTS, run, 1, ended=False), run.engine.tokenizer)
    assert (read.choice == -1).all() and not read.well_formed.any() and read.truncated.all()


def test_a_completion_that_loses_a_token_on_the_way_to_text_has_said_nothing(run):
    sampled = rollout_of(TEXTS[:1] * 2, run, 1)
    sampled.tokens[0, 1, 3] = len(run.engine.tokenizer) + 5  # a row that fills up the tables
    read = decode_completions(sampled, run.engine.tokenizer)
    assert read.well_formed.tolist() == [[True, False]]
    assert read.choice.tolist() == [[FIRST, -1]] and read.answer_position[0, 1] == -1


def test_long_traces_are_cut_and_counted(run):
    judge = next(x for x in run.engine.listeners if x.style == "judge")
    read = decode_completions(rollout_of(TEXTS, run, 1), run.engine.tokenizer)
    assert judge_input(read, judge).cut == 0
    longest = len(trace_tokens(run.engine.tokenizer, read.traces[0][0]))
    exact = dataclasses.replace(judge, width=longest + len(judge.tail) + 1)
    assert judge_input(read, exact).cut == 0
    narrow = dataclasses.replace(judge, width=len(judge.tail) + 6)
    reading = judge_input(read, narrow)
    assert reading.cut == 2  # the third trace is short enough
    for member in range(3):
        end = reading.answer_position[0, member]
        np.testing.assert_array_equal(
            reading.tokens[0, member, end - len(judge.tail) : end], judge.tail
        )


def test_continue_needs_the_policys_tokenizer(data, tmp_path, monkeypatch):
    load = frozen.load_tokenizer

    def other(folder):
        tokenizer = load(folder)
        if "other" in str(folder):
            tokenizer.add_tokens(["<something>"])
        return tokenizer

    import shutil

    shutil.copytree(assets.tiny_model(), tmp_path / "other")
    monkeypatch.setattr(frozen, "load_tokenizer", other)
    config = tiny_config(data, **{"listener.path": str(tmp_path / "other")})
    with pytest.raises(ValueError, match="'continue' needs the policy's tokenizer"):
        setup.open_run(config, tmp_path / "run")
