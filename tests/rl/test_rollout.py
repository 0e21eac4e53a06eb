"""The sampler samples: from the right distribution, by the right keys, and nothing forbidden."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from lrt_jax.models import BoundModel
from lrt_jax.models.qwen2_5_vl.hf_inputs import from_hf
from lrt_jax.rl.logprobs import token_logps
from lrt_jax.rl.rollout import SamplingConfig, completion_keys, sample_completions, sample_token
from tests.models.calling import call
from tests.models.hf_reference import IMAGE, VIDEO, make_inputs

TOKENS = 6


@pytest.fixture(scope="module")
def case(one):
    """Two ragged prompts, the features of their images, and the softmax of their first token."""
    inputs = make_inputs([2, 1], one.shape, padding_side="right", seed=11)
    prompt, *images = from_hf(inputs, one.model.config)
    merged = call(one.model, one.params, "encode_patches", *images)
    features = jnp.broadcast_to(
        merged.reshape(1, -1, merged.shape[-1]), (2, merged.shape[0] * merged.shape[1], 32)
    )
    first = jnp.zeros((2, 1, 1), jnp.int32)
    hidden = BoundModel(one.model, one.params).score_group(prompt, features, first)
    return prompt, features, np.asarray(call(one.model, one.params, "logits", hidden))[:, 0, 0]


@pytest.fixture(scope="module")
def sample(one, case):
    """Samples completions, compiled once per sampling and group size."""
    run = jax.jit(
        lambda keys, sampling: sample_completions(one.model, one.params, *case[:2], keys, sampling),
        static_argnums=1,
    )

    def sample(group, sampling, seed=0, pairs=(0, 1), swapped=(False, False)):
        keys = completion_keys(jax.random.key(seed), jnp.array(pairs), jnp.array(swapped), group)
        return jax.device_get(run(keys, sampling))

    return sample


def softmax(logits, temperature, banned):
    logits = logits.astype(np.float64) / temperature
    logits[..., list(banned)] = -np.inf
    weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True)


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_first_tokens_follow_the_softmax(sample, case, temperature):
    drawn = sample(4000, SamplingConfig(1, (), temperature)).tokens[..., 0]
    for row, logits in zip(drawn, case[2], strict=True):
        wanted = softmax(logits, temperature, (IMAGE, VIDEO)) * drawn.shape[1]
        counts = np.bincount(row, minlength=len(wanted))
        assert counts[[IMAGE, VIDEO]].sum() == 0
        rare = wanted < 5  # chi-square wants at least five expected in a cell
        observed = np.append(counts[~rare], counts[rare].sum())
        expected = np.append(wanted[~rare], wanted[rare].sum())
        keep = expected > 0
        assert stats.chisquare(observed[keep], expected[keep]).pvalue > 1e-3


def test_nucleus_keeps_the_likeliest_tokens(sample, case):
    drawn = sample(1000, SamplingConfig(1, (), 1.0, top_p=0.5))
    for row, kept, logits in zip(drawn.tokens[..., 0], drawn.nucleus_mass, case[2], strict=True):
        p = softmax(logits, 1.0, (IMAGE, VIDEO))
        order = np.argsort(-p)
        size = int(np.searchsorted(np.cumsum(p[order]), 0.5)) + 1
        assert set(row) == set(order[:size])
        np.testing.assert_allclose(kept, p[order[:size]].sum(), rtol=1e-5)


def test_logps_are_the_trainers(one, case, sample):
    prompt, features, _ = case
    sampling = SamplingConfig(TOKENS, (), 0.7)
    drawn = sample(3, sampling)
    tokens = jnp.asarray(drawn.tokens)
    hidden = BoundModel(one.model, one.params).score_group(prompt, features, tokens)
    logps, entropy = token_logps(one.model, one.params, hidden, tokens, temperature=0.7)
    np.testing.assert_allclose(drawn.logps, logps, atol=1e-4)
    assert (drawn.nucleus_mass == 1.0).all() and (drawn.logps < 0).all() and (entropy > 0).all()


def test_no_image_token_is_ever_drawn_even_if_it_is_the_likeliest(one):
    logits = jnp.zeros((2, 50, one.shape.vocab)).at[..., IMAGE].set(50.0).at[..., VIDEO].set(50.0)
    keys = jax.vmap(jax.vmap(jax.random.key))(jnp.arange(100).reshape(2, 50))
    for temperature in (0.0, 1.0):
        tokens, logps, kept, _ = sample_token(
            logits, keys, SamplingConfig(1, (), temperature), (IMAGE, VIDEO)
        )
        assert (kept == 1.0).all()
        assert not np.isin(tokens, (IMAGE, VIDEO)).any()
        np.testing.assert_allclose(logps, -np.log(one.shape.vocab - 2), rtol=1e-5)


def test_ids_without_a_spelling_are_as_impossible_to_the_sampler_as_to_the_trainer(one, case):
    """Rows that fill up the tables, at their end or among them, as images and videos are."""
    vocab, holes = one.shape.vocab, (7, *range(one.shape.vocab - 40, one.shape.vocab))
    model = one.model.copy(config=dataclasses.replace(one.model.config, unspelled_token_ids=holes))
    keys = completion_keys(jax.random.key(0), jnp.arange(2), jnp.zeros(2, bool), 8)
    drawn = sample_completions(model, one.params, *case[:2], keys, SamplingConfig(1, ()))
    assert not np.isin(drawn.tokens, holes).any()
    tokens = jnp.arange(vocab).reshape(1, -1, 1).repeat(2, 0)
    hidden = BoundModel(model, one.params).score_group(*case[:2], tokens)
    logps, _ = token_logps(model, one.params, hidden, tokens, temperature=1.0)
    wanted = np.log(softmax(case[2], 1.0, (IMAGE, VIDEO, *holes)) + 1e-300)
    possible = np.setdiff1d(np.arange(vocab), (IMAGE, VIDEO, *holes))
    np.testing.assert_allclose(logps[:, possible, 0], wanted[:, possible], atol=1e-4)
    assert (logps[:, holes, 0] < -1e20).all()
    places = np.take_along_axis(np.asarray(logps)[..., 0], np.asarray(drawn.tokens)[..., 0], 1)
    np.testing.assert_allclose(drawn.logps[..., 0], places, atol=1e-4)


def test_stops_at_the_first_stop_token(sample):
    free = sample(8, SamplingConfig(TOKENS, (), 1.0))
    stop = int(free.tokens[0, 0, 2])
    stopped = sample(8, SamplingConfig(TOKENS, (stop,), 1.0))
    for tokens, length, ended, whole in zip(
        *(x.reshape(16, *x.shape[2:]) for x in (stopped.tokens, stopped.length, stopped.done)),
        free.tokens.reshape(16, -1),
        strict=True,
    ):
        at = np.flatnonzero(whole == stop)
        assert ended == bool(at.size)
        assert length == (at[0] + 1 if at.size else TOKENS)
        np.testing.assert_array_equal(tokens[:length], whole[:length])
    assert stopped.done.any() and not stopped.done.all()
    np.testing.assert_array_equal(stopped.mask.sum(-1), stopped.length)


def test_loop_ends_when_all_have_ended(one, case, sample):
    everything = tuple(range(one.shape.vocab))
    drawn = sample(4, SamplingConfig(TOKENS, everything, 1.0))
    assert (drawn.length == 1).all() and drawn.done.all()
    assert (drawn.tokens[..., 1:] == 0).all() and (drawn.logps[..., 1:] == 0).all()


def test_tokens_depend_on_pair_order_and_member_alone(sample):
    sampling = SamplingConfig(TOKENS, (), 1.0)
    some, more = sample(2, sampling), sample(4, sampling)
    np.testing.assert_array_equal(some.tokens, more.tokens[:, :2])
    assert len({tuple(row) for row in more.tokens.reshape(8, -1)}) == 8
    other = sample(2, sampling, swapped=(True, False))
    assert (other.tokens[0] != some.tokens[0]).any()
    np.testing.assert_array_equal(other.tokens[1], some.tokens[1])
    assert (sample(2, sampling, seed=1).tokens != some.tokens).any()


def test_greedy_ignores_the_key(sample):
    likeliest = SamplingConfig(TOKENS, (), 0.0)
    np.testing.assert_array_equal(sample(2, likeliest).tokens, sample(2, likeliest, seed=1).tokens)
    assert dataclasses.replace(likeliest).logp_temperature == 1.0


def test_some_members_of_a_group_may_be_greedy(sample):
    mixed = sample(3, SamplingConfig(TOKENS, (), 1.0, greedy_members=1)).tokens
    np.testing.assert_array_equal(
        mixed[:, :2], sample(3, SamplingConfig(TOKENS, (), 1.0)).tokens[:, :2]
    )
    np.testing.assert_array_equal(mixed[:, 2:], sample(1, SamplingConfig(TOKENS, (), 0.0)).tokens)
