"""What the engine does between its compiled pieces, which are stand-ins here."""

import dataclasses
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lrt_jax import assets
from lrt_jax.data.input.tokenizer import load_tokenizer
from lrt_jax.data.schema import Batch, Target
from lrt_jax.models import Prompt
from lrt_jax.parallel.collectives import batch_sharding
from lrt_jax.parallel.mesh import make_mesh
from lrt_jax.rl import engine as engine_module
from lrt_jax.rl import frozen as frozen_module
from lrt_jax.rl.completions import Completions
from lrt_jax.rl.engine import Engine
from lrt_jax.rl.frozen import FrozenModel, Reading
from lrt_jax.rl.listener import Listener
from lrt_jax.rl.rollout import Rollout, SamplingConfig

PAIRS, GROUP, LENGTH = 2, 3, 5
TOKENIZER = load_tokenizer(assets.tiny_model())
PROMPT = Prompt(
    tokens=jnp.zeros((PAIRS, 4), jnp.int32),
    positions=jnp.zeros((PAIRS, 3, 4), jnp.int32),
    image_index=jnp.full((PAIRS, 4), -1, jnp.int32),
    length=jnp.full(PAIRS, 4, jnp.int32),
)
BATCH = Batch(images=None, prompt=PROMPT, listener_prompts=(), target=None)
ROLLOUT = Rollout(
    tokens=jnp.zeros((PAIRS, GROUP, LENGTH), jnp.int32),
    logps=jnp.zeros((PAIRS, GROUP, LENGTH)),
    nucleus_mass=jnp.ones((PAIRS, GROUP, LENGTH)),
    length=jnp.full((PAIRS, GROUP), LENGTH, jnp.int32),
    done=jnp.ones((PAIRS, GROUP), bool),
)


@pytest.fixture
def mesh():
    return make_mesh(devices=jax.devices()[:1])


def completions() -> Completions:
    """Of which the last of each group has no answer."""
    text, shape = "<think>a</think><answer>1</answer>", (PAIRS, GROUP)
    said = np.tile([True, True, False], (PAIRS, 1))
    return Completions(
        texts=[[text] * GROUP] * PAIRS,
        traces=[["a"] * GROUP] * PAIRS,
        well_formed=said,
        choice=np.where(said, 0, -1).astype(np.int8),
        answer_position=np.where(said, 0, -1).astype(np.int32),
        length=np.full(shape, LENGTH, np.int32),
        truncated=~said,
        nucleus_mass=np.ones(shape, np.float32),
    )


def frozen(name: str, one) -> FrozenModel:
    return FrozenModel(name, one.model, one.params, TOKENIZER, (1, 2), same_tower=False)


def test_the_verdict_is_the_listeners_mean_by_their_shares(one, mesh):
    models = [frozen("a", one), frozen("b", one)]
    listeners = [
        Listener(x, "continue", share) for x, share in zip(models, (3.0, 1.0), strict=True)
    ]
    engine = Engine(one.model, TOKENIZER, (1, 2), listeners, None, mesh, 0)
    said = {"a": 0.9, "b": 0.1}

    def answers(asked, features, microbatches):
        return [jnp.full((PAIRS, GROUP), said[asked.frozen.checkpoint])], None

    engine._pass = answers
    scores = engine.score_frozen(BATCH, {}, ROLLOUT, completions())
    np.testing.assert_allclose(scores.p_first, 0.7, atol=1e-6)
    unasked = engine.score_frozen(BATCH, {}, ROLLOUT, completions(), ask_listeners=False)
    assert unasked.p_first is None


def test_evaluations_ask_the_held_out_listener_and_all_without_a_trace(one, mesh):
    """The held-out one has no part in the mean, and training does not ask it."""
    models = [frozen(name, one) for name in "abc"]
    *listeners, held_out = (
        Listener(x, "continue", share) for x, share in zip(models, (3.0, 1.0, 9.0), strict=True)
    )
    engine = Engine(one.model, TOKENIZER, (1, 2), listeners, None, mesh, 0, held_out)
    said, read = {"a": 0.9, "b": 0.1, "c": 0.4}, []

    def passed(model, params, features, readings, **options):
        [(_, tokens, position)] = readings
        read.append((np.asarray(tokens), np.asarray(position)))
        probability = jnp.full(tokens.shape[:2], said[features])
        return [probability.at[:, GROUP:].mul(0.5)], None

    engine._frozen_pass = passed
    features = dict(zip("abc", "abc", strict=True))
    scores = engine.score_frozen(BATCH, features, ROLLOUT, completions(), alone=True, held_out=True)
    np.testing.assert_allclose(scores.p_first, np.full((PAIRS, GROUP), 0.7), atol=1e-6)
    np.testing.assert_allclose(scores.p_first_alone, np.full(PAIRS, 0.35), atol=1e-6)
    np.testing.assert_allclose(scores.held_out, np.full((PAIRS, GROUP), 0.4), atol=1e-6)
    np.testing.assert_allclose(scores.held_out_alone, np.full(PAIRS, 0.2), atol=1e-6)
    assert [tokens.shape for tokens, _ in read] == [(PAIRS, GROUP + 1, LENGTH)] * 3
    read.clear()
    trained = engine.score_frozen(BATCH, features, ROLLOUT, completions())
    assert trained.p_first_alone is trained.held_out is trained.held_out_alone is None
    assert [tokens.shape for tokens, _ in read] == [(PAIRS, GROUP, LENGTH)] * 2


def test_features_of_the_held_out_listener_are_made_for_evaluations_alone(one, mesh):
    held_out = Listener(frozen("b", one), "continue")
    engine = Engine(one.model, TOKENIZER, (1, 2), (), None, mesh, 0, held_out)
    engine._encode = lambda model, params, images: "features"
    assert [*engine.encode_images({}, BATCH)] == [None]
    assert [*engine.encode_images({}, BATCH, held_out=True)] == [None, "b"]


def test_a_policy_without_an_answer_has_no_verdict_of_its_own(one, mesh):
    engine = Engine(one.model, TOKENIZER, (1, 2), (), None, mesh, 0)
    engine._frozen_pass = lambda *args, **options: ([jnp.full((PAIRS, GROUP), 0.5)], None)
    own = engine.answer_probability({}, BATCH, None, ROLLOUT, completions())
    np.testing.assert_array_equal(own, np.tile([0.5, 0.5, np.nan], (PAIRS, 1)))


def test_the_sampling_copy_has_the_activations_dtype(one, mesh):
    same = Engine(one.model, TOKENIZER, (1, 2), (), None, mesh, 0)
    assert same.sampler_params(one.params) is one.params
    model = one.model.copy(dtype=jnp.bfloat16)
    params = Engine(model, TOKENIZER, (1, 2), (), None, mesh, 0).sampler_params(one.params)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("bfloat16")}


def test_towers_that_are_not_the_policys_encode_for_themselves(one, mesh):
    own, other = dataclasses.replace(frozen("a", one), same_tower=True), frozen("b", one)
    listeners = [Listener(x, "continue") for x in (own, other, other)]
    engine = Engine(one.model, TOKENIZER, (1, 2), listeners, other, mesh, 0)
    calls = []
    engine._encode = lambda model, params, images: calls.append(params) or len(calls)
    features = engine.encode_images({"whose": "policy"}, BATCH)
    assert features == {None: 1, "a": 1, "b": 2} and calls == [{"whose": "policy"}, one.params]


def test_every_stream_step_pair_order_and_member_has_a_key_of_its_own(one, mesh, monkeypatch):
    keys = []
    monkeypatch.setattr(
        engine_module, "sample_completions", lambda *args: keys.append(args[4]) or ROLLOUT
    )
    model = one.model.copy(sharding=batch_sharding(mesh))
    pairs, swapped = jnp.repeat(jnp.arange(3), 2), jnp.tile(jnp.array([False, True]), 3)
    target = Target(p_first=None, label=None, pair=pairs, swapped=swapped, weight=None)
    sampling = SamplingConfig(max_tokens=LENGTH, stop_ids=(0,))
    monkeypatch.setattr(jax.lax, "with_sharding_constraint", lambda x, rows: x)
    for seeds in ((0, 0, 1), (0, 1, 1), (0, 0, 2), (1, 0, 1)):
        seeds = jnp.array(seeds, jnp.uint32)
        engine_module._sample(model, {}, (PROMPT, target, None), seeds, GROUP, sampling)
    data = np.concatenate([jax.random.key_data(k).reshape(-1, 2) for k in keys])
    assert len(np.unique(data, axis=0)) == len(data) == 4 * 6 * GROUP


def test_a_frozen_model_s_logps_are_the_first_readings_at_the_temperature_that_is_asked_for(
    one, monkeypatch
):
    asked = []
    bound = types.SimpleNamespace(
        score_groups=lambda prompts, features, tokens: ["first", "second"]
    )
    monkeypatch.setattr(frozen_module, "BoundModel", lambda *args: bound)
    verdict, answered = jnp.full((PAIRS, GROUP), 0.5), []

    def probability(model, params, *args):
        answered.append(args)
        return verdict

    monkeypatch.setattr(frozen_module, "answer_probability", probability)

    def logps(model, params, hidden, tokens, *, temperature):
        asked.append((hidden, tokens, temperature))
        return ROLLOUT.logps, "entropy"

    monkeypatch.setattr(frozen_module, "token_logps", logps)
    other = jnp.zeros((PAIRS, GROUP, 2), jnp.int32)
    readings = Reading(PROMPT, ROLLOUT.tokens, None), Reading(PROMPT, other, ROLLOUT.length)
    given = one.model, one.params, None, readings
    with_logps = frozen_module.frozen_pass(*given, answer_ids=(8, 9), temperature=0.5)
    assert with_logps == ((None, verdict), ROLLOUT.logps)
    assert asked == [("first", ROLLOUT.tokens, 0.5)]
    assert answered == [("second", ROLLOUT.length, (8, 9))]
    assert frozen_module.frozen_pass(*given, answer_ids=(8, 9)) == ((None, verdict), None)
    assert len(asked) == 1
