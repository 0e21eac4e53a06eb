"""Imitation: its gradient, what is imitated, and what is told of unusable demonstrations."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lrt_jax import assets
from lrt_jax.algorithms import algorithm_problems
from lrt_jax.algorithms.sft import SFT, SFTBatch, supervised_gradient
from lrt_jax.config import ConfigError, default_config, parse_config
from lrt_jax.data.input.demonstrations import (
    DemonstrationEncoder,
    DemonstrationError,
    DemonstrationFile,
    bare_answers,
)
from lrt_jax.data.input.prompts import parse
from lrt_jax.data.input.tokenizer import load_tokenizer
from lrt_jax.data.schema import FIRST, SECOND, TIE, Demonstrations, PairRecord
from lrt_jax.models import Images, Prompt, load_model
from lrt_jax.parallel.mesh import make_mesh
from lrt_jax.reporting.metrics import read_metrics
from lrt_jax.rl.learner import split_frozen
from lrt_jax.storage.workdir import LocalWorkdir
from lrt_jax.training import setup
from lrt_jax.training.loop import train
from tests.models.calling import call
from tests.training.small_run import exported_bytes, sft_config, train_interrupted

RECORD = PairRecord(
    uid="x/train/1/0-1",
    source="x",
    split="train",
    group_id="1",
    cluster=0,
    prompt="a caption",
    image_index=(0, 1),
    votes=(1.0, 0.0),
    votes_weighted=(1.0, 0.0),
    rank=(1.0, 2.0),
    label=FIRST,
    p_first=0.75,
    criterion="overall",
    generator=("", ""),
    flags=0,
)
TEXT = "<think>First: sharp. Second: dark.</think><answer>1</answer>"


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(assets.tiny_model())


def encoder(tokenizer, find, group=2, bucket=40):
    stop = tokenizer.convert_tokens_to_ids("<|im_end|>")
    return DemonstrationEncoder(tokenizer, stop, group, bucket, find)


def write_book(path, *lines):
    path.write_text(
        "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
    )
    return DemonstrationFile(str(path))


# What is imitated


def test_given_completions_are_found_by_pair_and_order(tokenizer, tmp_path):
    lines = [
        {
            "pair": RECORD.uid,
            "swapped": swapped,
            "completion": f"{TEXT[:-10]}{1 + swapped}</answer>",
        }
        for swapped in (False, True)
    ]
    book = write_book(tmp_path / "traces.jsonl", *lines)
    lesson = encoder(tokenizer, book).encode(RECORD, True, np.random.default_rng(0))
    assert lesson.tokens.shape == (2, 40) and lesson.length.tolist() == [lesson.length[0]] * 2
    kept = lesson.tokens[0, : lesson.length[0]]
    assert kept[-1] == tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert parse(tokenizer.decode(kept[:-1])).choice == SECOND
    assert not lesson.tokens[0, lesson.length[0] :].any()


def test_bare_answers_are_right_in_both_orders(tokenizer):
    for label, swapped, choice in (
        (FIRST, False, FIRST),
        (FIRST, True, SECOND),
        (SECOND, True, FIRST),
    ):
        (text,) = bare_answers(dataclasses.replace(RECORD, label=label), swapped)
        assert parse(text).choice == choice
    with pytest.raises(DemonstrationError, match="no majority"):
        bare_answers(dataclasses.replace(RECORD, label=TIE), False)


@pytest.mark.parametrize(
    "line, message",
    [
        ("{", "line 1: not an object"),
        ({"pair": "x", "swapped": False}, "line 1: not an object with .*completion"),
        ({"pair": "x", "swapped": 0, "completion": "t"}, "'swapped' is 0, expected bool"),
        ({"pair": "other", "swapped": False, "completion": "t"}, "no completion for pair 'x/train"),
    ],
)
def test_lessons_that_cannot_be_used_are_named(line, message, tmp_path):
    with pytest.raises(DemonstrationError, match=message):
        write_book(tmp_path / "t.jsonl", line)(RECORD, False)


def test_a_lesson_that_does_not_fit_is_named(tokenizer):
    short = encoder(tokenizer, lambda *_: [TEXT], bucket=8)
    with pytest.raises(DemonstrationError, match="x/train/1/0-1.*max_completion_length=8"):
        short.encode(RECORD, False, np.random.default_rng(0))


def test_lessons_are_checked_before_the_first_step(tokenizer, tmp_path):
    one_order = write_book(
        tmp_path / "t.jsonl", {"pair": RECORD.uid, "swapped": False, "completion": TEXT}
    )
    with pytest.raises(DemonstrationError, match="swapped=True; give one for both orders"):
        encoder(tokenizer, one_order).check([RECORD])
    with pytest.raises(DemonstrationError, match="x/train/1/0-1.*max_completion_length=8"):
        encoder(tokenizer, lambda *_: [TEXT], bucket=8).check([RECORD])
    encoder(tokenizer, lambda *_: [TEXT]).check([RECORD])


def test_a_changed_file_of_lessons_is_another(tokenizer, tmp_path):
    line = {"pair": RECORD.uid, "swapped": False, "completion": TEXT}
    digest = encoder(tokenizer, write_book(tmp_path / "t.jsonl", line)).digest
    line["completion"] = TEXT.replace("sharp", "dark")
    assert encoder(tokenizer, write_book(tmp_path / "t.jsonl", line)).digest != digest


@pytest.mark.parametrize(
    ("field", "changes"),
    [
        ("data.demonstrations", {"algorithm": "grpo", "data.demonstrations": "answers"}),
        ("model.from_scratch", {"algorithm": "listener_grpo", "model.from_scratch": True}),
        ("model.freeze", {"model.from_scratch": True}),
        ("data.demonstrations", {"data.demonstrations": "answers", "data.target": "votes"}),
    ],
)
def test_combinations_that_cannot_be(field, changes):
    values = default_config()
    given = None if "algorithm" in changes else "file.jsonl"
    values.algorithm, values.data.path, values.data.demonstrations = (
        "sft",
        "somewhere",
        given,
    )
    values.update_from_flattened_dict(changes)
    with pytest.raises(ConfigError, match=f"{field}: "):
        parse_config(values, algorithm_problems)


def test_a_config_without_lessons_is_refused():
    values = default_config()
    values.algorithm, values.data.path = "sft", "somewhere"
    with pytest.raises(ConfigError, match="data.demonstrations"):
        parse_config(values, algorithm_problems)
    values.data.demonstrations = "answers"
    assert parse_config(values, algorithm_problems).algorithm == "sft"
    values.loss.num_iterations = 2
    with pytest.raises(ConfigError, match="loss.num_iterations"):
        parse_config(values, algorithm_problems)
    values = default_config()
    values.algorithm, values.data.source = "sft", "scenes"
    with pytest.raises(ConfigError, match="data.scenes.traces"):
        parse_config(values, algorithm_problems)


# The gradient


@pytest.fixture(scope="module")
def batch_and_model():
    """Four pairs of noise with two random demonstrations each, of different lengths."""
    model, params = load_model(assets.tiny_model(), seed=0)  # noise is nothing that it was taught
    rng = np.random.default_rng(0)
    b, g, t, s, p = 4, 2, 6, 12, 64
    index = np.full((b, s), -1, np.int32)
    index[:, 2:6] = [0, 1, 16, 17]
    batch = SFTBatch(
        prompt=Prompt(
            tokens=rng.integers(3, 500, (b, s)).astype(np.int32),
            positions=np.tile(np.arange(s, dtype=np.int32), (b, 3, 1)),
            image_index=index,
            length=np.full(b, s, np.int32),
        ),
        images=Images(
            patches=rng.integers(0, 256, (b, 2, p, 588)).astype(np.uint8),
            coords=rng.integers(0, 8, (b, 2, p, 2)).astype(np.int32),
            window=np.zeros((b, 2, p), np.int32),
        ),
        demonstrations=Demonstrations(
            tokens=rng.integers(3, 500, (b, g, t)).astype(np.int32),
            length=rng.integers(1, t + 1, (b, g)).astype(np.int32),
        ),
    )
    return model, params, jax.tree.map(jnp.asarray, batch)


def test_gradient_is_that_of_the_mean_over_all_tokens(batch_and_model):
    model, params, batch = batch_and_model
    trainable, frozen = split_frozen(params, ("vision",))
    got, metrics, nonfinite = jax.jit(lambda t: supervised_gradient(model, t, frozen, batch))(
        trainable
    )

    features = jax.jit(lambda images: call(model, params, "encode_images", images))(batch.images)

    @jax.jit  # compiled once for each length; without it, so would each operation be
    def plainly(decoder, prompt, image_index, seen, said):
        """A lesson on its own, as a prompt and its continuation in one sequence."""
        mine, n = {**params, "decoder": decoder}, len(said)
        tokens = jnp.concatenate([prompt, said])[None]
        whole = Prompt(
            tokens=tokens,
            positions=jnp.broadcast_to(jnp.arange(tokens.shape[1]), (1, 3, tokens.shape[1])),
            image_index=jnp.pad(image_index, (0, n), constant_values=-1)[None],
            length=jnp.array([tokens.shape[1]]),
        )
        hidden = call(model, mine, "forward", whole, seen[None])
        logits = call(model, mine, "logits", hidden)[0, -n - 1 : -1]
        banned = jnp.array(model.config.banned_token_ids)
        logps = jax.nn.log_softmax(logits.at[:, banned].set(-jnp.inf))
        return -logps[jnp.arange(n), said].sum()

    def mean(decoder):
        lengths = np.asarray(batch.demonstrations.length)
        parts = (
            plainly(
                decoder,
                batch.prompt.tokens[b],
                batch.prompt.image_index[b],
                features[b],
                batch.demonstrations.tokens[b, g, : lengths[b, g]],
            )
            for b, g in np.ndindex(*lengths.shape)
        )
        return sum(parts) / lengths.sum()

    assert nonfinite.shape == (4,) and not nonfinite.any()
    loss, wanted = jax.value_and_grad(mean)(params["decoder"])
    assert float(metrics["loss"]) == pytest.approx(float(loss), rel=1e-5)
    for path, leaf in split_frozen({"decoder": wanted}, ())[0].items():
        scale = float(jnp.abs(leaf).max())
        np.testing.assert_allclose(got[path], leaf, atol=2e-5 * scale, err_msg=path)


def test_microbatches_do_not_change_the_gradient(batch_and_model):
    model, params, batch = batch_and_model
    trainable, frozen = split_frozen(params, ())
    (one, sums, _), (two, parts, _) = (
        jax.jit(lambda t, m=m: supervised_gradient(model, t, frozen, batch, m))(trainable)
        for m in (1, 2)
    )
    assert float(sums["loss"]) == pytest.approx(float(parts["loss"]), rel=1e-5)
    for path, leaf in one.items():
        np.testing.assert_allclose(two[path], leaf, atol=1e-5 * float(jnp.abs(leaf).max()))


# A run


def test_a_stopped_run_ends_in_the_same_bits(tmp_path, monkeypatch):
    monkeypatch.setattr(setup, "make_mesh", lambda *_: make_mesh(devices=jax.devices()[:1]))
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    results = train(sft_config(), LocalWorkdir(whole))
    assert results["algorithm"] == "sft" and (whole / "curves.png").is_file()
    lines = read_metrics(whole)
    assert [line["compilations"] for line in lines[1:]] == [0, 0, 0]
    assert lines[-1]["loss"] < lines[0]["loss"]

    said = train_interrupted(sft_config(), stopped, monkeypatch, step=4, by=SFT)
    assert any("going on from the checkpoint of step 2" in line for line in said)
    assert exported_bytes(stopped) == exported_bytes(whole)
    settings = json.loads((whole / "export" / "lrt_jax.json").read_text())
    assert settings["trained_from"]["from_scratch"]
