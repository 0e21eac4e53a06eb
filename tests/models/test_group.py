"""A group is one prefix and G suffixes: the same numbers as G separate sequences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lrt_jax.models import BoundModel, Prompt
from lrt_jax.models.attention import KeyValues
from lrt_jax.models.qwen2_5_vl.hf_inputs import from_hf
from lrt_jax.rl.logprobs import token_logps
from tests.models.calling import call
from tests.models.hf_reference import FIRST_TEXT, make_inputs

GROUP, TIME = 3, 6
TEMPERATURE = 0.8


@pytest.fixture(scope="module")
def case(one):
    """Two ragged prompts with images, and ragged continuations with weights."""
    inputs = make_inputs([2, 1], one.shape, padding_side="right", seed=5)
    prompt, *images = from_hf(inputs, one.model.config)
    rng = np.random.default_rng(0)
    tokens = rng.integers(FIRST_TEXT, one.shape.vocab, (2, GROUP, TIME)).astype(np.int32)
    length = np.array([[6, 2, 4], [1, 6, 3]])
    weights = rng.normal(size=tokens.shape) * (np.arange(TIME) < length[..., None])
    return prompt, images, tokens, weights.astype(np.float32)


def features_of(one, params, images, batch):
    merged = call(one.model, params, "encode_patches", *images)
    flat = merged.reshape(1, -1, merged.shape[-1])
    return jnp.broadcast_to(flat, (batch, *flat.shape[1:]))


def by_group(params, one, case):
    """Weighted sum of log-probs, all groups in one pass."""
    prompt, images, tokens, weights = case
    tokens = jnp.asarray(tokens)
    features = features_of(one, params, images, 2)
    hidden = BoundModel(one.model, params).score_group(prompt, features, tokens)
    logps, _ = token_logps(one.model, params, hidden, tokens, temperature=TEMPERATURE, chunk=2)
    return jnp.sum(logps * weights), logps


def separately(params, one, case):
    """The same, each member a sequence of its own with a prompt of its own."""
    prompt, images, tokens, weights = case
    sequences, start = full_sequences(prompt, tokens)
    features = features_of(one, params, images, 2 * GROUP)
    hidden = call(one.model, params, "forward", sequences, features)
    at = (start - 1)[:, None] + np.arange(TIME)
    logits = call(one.model, params, "logits", jnp.take_along_axis(hidden, at[..., None], axis=1))
    logits = logits.at[..., np.array(one.model.config.banned_token_ids)].set(-1e30)
    logps = jax.nn.log_softmax(logits / TEMPERATURE).reshape(*tokens.shape, -1)
    logps = jnp.take_along_axis(logps, tokens[..., None], axis=-1)[..., 0]
    return jnp.sum(logps * weights), logps


def full_sequences(prompt, tokens) -> tuple[Prompt, np.ndarray]:
    """Every prompt with every one of its continuations, right-padded, and where those start."""
    prompt = jax.device_get(prompt)
    width = prompt.tokens.shape[1] + TIME
    rows = []
    for b in range(2):
        n = int(prompt.length[b])
        positions = np.zeros((3, width), np.int32)
        positions[:, :n] = prompt.positions[b, :, :n]
        positions[:, n : n + TIME] = prompt.positions[b, :, n - 1 : n] + 1 + np.arange(TIME)
        index = np.full(width, -1, np.int32)
        index[:n] = prompt.image_index[b, :n]
        for g in range(GROUP):
            ids = np.zeros(width, np.int32)
            ids[: n + TIME] = np.concatenate([prompt.tokens[b, :n], tokens[b, g]])
            rows.append(Prompt(ids, positions, index, np.int32(n + TIME)))
    return jax.tree.map(lambda *x: jnp.asarray(np.stack(x)), *rows), np.repeat(prompt.length, GROUP)


def test_values_and_gradients(one, case):
    run = jax.jit(jax.value_and_grad(lambda p: by_group(p, one, case), has_aux=True))
    alone = jax.jit(jax.value_and_grad(lambda p: separately(p, one, case), has_aux=True))
    (loss, logps), grads = run(one.params)
    (wanted_loss, wanted_logps), wanted_grads = alone(one.params)
    np.testing.assert_allclose(loss, wanted_loss, rtol=1e-5)
    np.testing.assert_allclose(logps, wanted_logps, atol=1e-5)
    for (path, got), wanted in zip(
        jax.tree.leaves_with_path(grads), jax.tree.leaves(wanted_grads), strict=True
    ):
        largest = np.abs(wanted).max()
        assert largest > 0, path
        np.testing.assert_allclose(got, wanted, atol=1e-5 * largest, rtol=0, err_msg=str(path))


def test_decode_equals_score_group(one, case):
    prompt, images, tokens, _ = case
    features = features_of(one, one.params, images, 2)
    wanted = BoundModel(one.model, one.params).score_group(prompt, features, jnp.asarray(tokens))
    prefix = call(one.model, one.params, "prefill", prompt, features)
    text = one.model.config.text
    shape = (text.num_layers, 2, GROUP, TIME, text.num_kv_heads, text.head_dim)
    cache = KeyValues(jnp.zeros(shape), jnp.zeros(shape))
    last = jnp.broadcast_to(prefix.last_token[:, None], (2, GROUP))
    decode = jax.jit(lambda *args: call(one.model, one.params, "decode", prefix, *args))
    for step in range(TIME):
        hidden, new = decode(cache, last, jnp.int32(step))
        np.testing.assert_allclose(hidden, wanted[:, :, step], atol=2e-5)
        cache = jax.tree.map(lambda c, n, s=step: c.at[:, :, :, s : s + 1].set(n), cache, new)
        last = tokens[..., step]


def test_several_groups_in_one_pass_are_as_each_alone(one, case):
    """Ragged prompts of two widths, and continuations that are others in number and length."""
    prompt, images, tokens, _ = case
    features, tokens = features_of(one, one.params, images, 2), jnp.asarray(tokens)
    groups = (prompt, tokens), (lengthened(prompt, [5, 2]), tokens[:, :2, :4])
    prompts, continuations = zip(*groups, strict=True)
    widths = [x.tokens.shape[1] for x in prompts]
    assert widths[0] < widths[1] and not np.array_equal(*(x.length for x in prompts))
    together = jax.jit(
        lambda p: BoundModel(one.model, p).score_groups(prompts, features, continuations)
    )
    for (prompt, tokens), found in zip(groups, together(one.params), strict=True):
        alone = jax.jit(lambda p, *given: BoundModel(one.model, p).score_group(*given))
        wanted = alone(one.params, prompt, features, tokens)
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


def lengthened(prompt, more) -> Prompt:
    """A prompt with so many text tokens more in each row, and padding behind them."""
    width = prompt.tokens.shape[1] + max(more) + 3
    filled = jax.device_get(prompt)
    tokens, index = np.zeros((2, width), np.int32), np.full((2, width), -1, np.int32)
    positions = np.zeros((2, 3, width), np.int32)
    for b, (n, extra) in enumerate(zip(filled.length, more, strict=True)):
        tokens[b, :n], index[b, :n] = filled.tokens[b, :n], filled.image_index[b, :n]
        tokens[b, n : n + extra] = FIRST_TEXT + np.arange(extra)
        positions[b, :, :n] = filled.positions[b, :, :n]
        last = filled.positions[b, :, n - 1 : n]
        positions[b, :, n : n + extra] = last + 1 + np.arange(extra)
    length = (filled.length + more).astype(np.int32)
    return jax.tree.map(jnp.asarray, Prompt(tokens, positions, index, length))


def test_prefix_is_computed_once(one, case):
    """Work on the prompt does not grow with the group."""
    prompt, images, tokens, _ = case
    features = features_of(one, one.params, images, 2)

    def flops(group):
        run = jax.jit(lambda p, t: BoundModel(one.model, p).score_group(prompt, features, t))
        shape = jax.ShapeDtypeStruct((2, group, TIME), jnp.int32)
        return run.lower(one.params, shape).compile().cost_analysis()["flops"]

    per_member = flops(2) - flops(1)
    assert flops(1) - per_member > 5 * per_member  # the prompt is over ten times as long
