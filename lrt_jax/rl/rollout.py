"""Sampling G completions of each prompt, the prompt's work done once."""

import dataclasses
import math
from collections.abc import Mapping
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from lrt_jax.models import BoundModel, PrefixState, Prompt, SuffixState, VisionLanguageModel
from lrt_jax.models.api import Features
from lrt_jax.models.inputs import AnyArray
from lrt_jax.rl.logprobs import NEVER, first_answer, take_logps, tempered_logits

ROOM = 256  # tokens, by which the room for a completion's keys and values grows


@dataclasses.dataclass(frozen=True)
class SamplingConfig:
    """How completions are drawn; static under `jit`.

    Attributes:
      max_tokens: length of the longest completion, its stop token included.
      stop_ids: any of these tokens ends a completion and is its last.
      temperature: divides the logits; 0 takes the likeliest token.
      top_p: keeps the likeliest tokens that together have this probability. Log-probabilities are
        those of the whole distribution, so that below 1 they differ from what is sampled, by the
        log of `Rollout.nucleus_mass`.
      greedy_members: how many members of each group, counted from its end, take the likeliest
        token whatever the temperature.
      answer_ids: ids of two answers, of which `Rollout.answer_p` is to tell; None for none.
    """

    max_tokens: int
    stop_ids: tuple[int, ...]
    temperature: float = 1.0
    top_p: float = 1.0
    greedy_members: int = 0
    answer_ids: tuple[int, int] | None = None

    @property
    def greedy(self) -> bool:
        return self.temperature == 0.0

    @property
    def logp_temperature(self) -> float:
        """Temperature that log-probabilities are measured at."""
        return 1.0 if self.greedy else self.temperature


@struct.dataclass
class Rollout:
    """Completions as they were sampled. Positions from `length` on are undefined."""

    tokens: Int[AnyArray, "B G t"]
    logps: Float[AnyArray, "B G t"]  # float32, nats, of the tempered distribution
    nucleus_mass: Float[AnyArray, "B G t"]  # probability of the tokens that `top_p` left to draw
    length: Int[AnyArray, "B G"]  # tokens, the stop token included
    done: Bool[AnyArray, "B G"]  # by a stop token; False where the completion was truncated
    # float32, probability of the first of two answers against the second, had one of them come
    # here, see `answer_probability`; None where nobody asks
    answer_p: Float[AnyArray, "B G t"] | None = None

    @property
    def mask(self) -> Bool[Array, "B G t"]:
        """Which positions hold tokens: from the sampled length, never from a padding id."""
        return jnp.arange(self.tokens.shape[-1]) < self.length[..., None]


@struct.dataclass
class _Loop:
    """State of the token loop."""

    step: Int[Array, ""]
    input_tokens: Int[Array, "B G"]  # input of the next decode step
    suffix: SuffixState  # filled up to `step`
    rollout: Rollout


def sample_completions(
    model: VisionLanguageModel,
    params: Mapping,
    prompt: Prompt,
    features: Features,
    completion_keys: Array,
    sampling: SamplingConfig,
) -> Rollout:
    """Samples completions until all have ended.

    A token is decoded at the cost of the room that there is for tokens, which is made as they need
    it: the loop is compiled for every length of it.

    Args:
      model: of `load_model`.
      params: of `load_model`, preferably in the `sample` layout.
      prompt: `B` prompts.
      features: merged tokens of their images.
      completion_keys: a key for each completion, [B, G]. Tokens do not depend on the
        index of a completion in the batch.
      sampling: how tokens are drawn.
    """
    policy = BoundModel(model, params)
    prefix = policy.prefill(prompt, features)

    def unfinished(room: int, loop: _Loop):
        return (loop.step < room) & ~jnp.all(loop.rollout.done)

    def advance(loop: _Loop) -> _Loop:
        hidden, new = policy.decode(prefix, loop.suffix, loop.input_tokens, loop.step)
        logits = policy.logits(hidden)
        keys = jax.vmap(jax.vmap(lambda key: jax.random.fold_in(key, loop.step)))(completion_keys)
        with jax.named_scope("sample_token"):
            drawn = sample_token(logits, keys, sampling, model.config.banned_token_ids)
        if sampling.answer_ids:
            drawn = drawn._replace(answer_p=first_answer(logits, sampling.answer_ids))
        return _Loop(
            step=loop.step + 1,
            input_tokens=drawn.tokens,
            suffix=loop.suffix.write(new, loop.step),
            rollout=_append(loop.rollout, drawn, loop.step, sampling.stop_ids),
        )

    loop = _start(prefix, completion_keys, sampling)
    for room in [*range(ROOM, sampling.max_tokens, ROOM), sampling.max_tokens]:
        loop = loop.replace(suffix=loop.suffix.grown(room))
        loop = jax.lax.while_loop(partial(unfinished, room), advance, loop)
    return loop.rollout


def completion_keys(
    key: Array, pairs: Int[Array, " B"], swapped: Bool[Array, " B"], group_size: int
) -> Array:
    """A key for each completion [B, G], from the pair, its order and the member alone."""

    def one(pair, swap, member):
        return jax.random.fold_in(jax.random.fold_in(key, pair * 2 + swap), member)

    members = jnp.arange(group_size)
    by_member = jax.vmap(one, in_axes=(None, None, 0))
    return jax.vmap(by_member, in_axes=(0, 0, None))(pairs, swapped.astype(pairs.dtype), members)


class SampledToken(NamedTuple):
    """One token of every completion; the fields are `Rollout`'s."""

    tokens: Int[Array, "B G"]
    logps: Float[Array, "B G"]
    nucleus_mass: Float[Array, "B G"]
    answer_p: Float[Array, "B G"] | None = None


def sample_token(
    logits: Float[Array, "B G v"], keys: Array, sampling: SamplingConfig, banned: tuple[int, ...]
) -> SampledToken:
    """Draws a token for each row."""
    logits = tempered_logits(logits, sampling.logp_temperature, banned)
    relative = logits - logits.max(axis=-1, keepdims=True)  # that of the likeliest is 0
    log_total = jnp.log(jnp.exp(_blocks(relative)).sum(axis=-1).sum(axis=-1))
    mass = jnp.ones(logits.shape[:-1], jnp.float32)
    if sampling.greedy:
        tokens, chosen = jnp.argmax(relative, axis=-1), jnp.zeros_like(log_total)
    else:
        if sampling.top_p < 1.0:
            probabilities = jnp.exp(relative - log_total[..., None])
            inside = _nucleus(probabilities, sampling.top_p)
            mass = jnp.sum(probabilities, where=inside, axis=-1)
            relative = jnp.where(inside, relative, NEVER)
        tokens, chosen = _draw(relative, jax.vmap(jax.vmap(jax.random.uniform))(keys))
        if greedy := sampling.greedy_members:
            tokens = tokens.at[:, -greedy:].set(jnp.argmax(relative[:, -greedy:], axis=-1))
            chosen = chosen.at[:, -greedy:].set(0.0)
    return SampledToken(tokens.astype(jnp.int32), chosen - log_total, mass)


def _blocks(x: Float[Array, "B G v"]) -> Float[Array, "B G b n"]:
    """A vocabulary in blocks: as many as a power of two, as that of devices is.

    What is computed by block then stays where it is if the vocabulary is divided over devices.
    """
    count = math.gcd(x.shape[-1], 1 << (math.isqrt(x.shape[-1]).bit_length() - 1))
    return x.reshape(*x.shape[:2], count, -1)


def _draw(
    log_weights: Float[Array, "B G v"], uniform: Float[Array, "B G"]
) -> tuple[Int[Array, "B G"], Float[Array, "B G"]]:
    """Draws in proportion to weights: where their cumulative sum passes a random number.

    By blocks, and then inside of the block that was found. What weighs nothing is never drawn.

    Args:
      log_weights: logarithms, of which the largest is about 0.
      uniform: random, from 0 up to 1 and without it.

    Returns:
      The indices, and their logarithms.
    """
    blocks = _blocks(log_weights)
    sums = jnp.exp(blocks).sum(axis=-1)
    ends = jnp.cumsum(sums, axis=-1)
    passed = uniform * ends[..., -1]
    block = _first_past(ends, sums, passed)
    number = jnp.arange(sums.shape[-1])
    found = jnp.sum(jnp.where((number == block[..., None])[..., None], blocks, 0.0), axis=-2)
    before = jnp.sum(jnp.where(number == block[..., None] - 1, ends, 0.0), axis=-1)
    weights = jnp.exp(found)
    index = _first_past(before[..., None] + jnp.cumsum(weights, axis=-1), weights, passed)
    return block * blocks.shape[-1] + index, take_logps(found, index)


def _first_past(
    ends: Float[Array, "B G n"], weights: Float[Array, "B G n"], passed: Float[Array, "B G"]
) -> Int[Array, "B G"]:
    """The first entry that weighs anything and at which the cumulative sum is past a number.

    Where rounding leaves none, the last that weighs anything.
    """
    there = weights > 0
    past = there & (ends > passed[..., None])
    last = weights.shape[-1] - 1 - jnp.argmax(there[..., ::-1], axis=-1)
    return jnp.where(past.any(axis=-1), jnp.argmax(past, axis=-1), last)


def _nucleus(probabilities: Float[Array, "B G v"], top_p: float) -> Bool[Array, "B G v"]:
    """The smallest set of likeliest tokens with probability `top_p` (arXiv 1904.09751)."""
    ordered = jnp.sort(probabilities, axis=-1, descending=True)
    before = jnp.cumsum(ordered, axis=-1) - ordered  # probability of all likelier tokens
    smallest = jnp.min(jnp.where(before < top_p, ordered, jnp.inf), axis=-1, keepdims=True)
    return probabilities >= smallest


def _start(prefix: PrefixState, completion_keys: Array, sampling: SamplingConfig) -> _Loop:
    batch, group = completion_keys.shape[:2]
    flat = (batch, group, sampling.max_tokens)
    return _Loop(
        step=jnp.int32(0),
        input_tokens=jnp.broadcast_to(prefix.last_token[:, None], (batch, group)),
        suffix=prefix.empty_suffix(group, min(ROOM, sampling.max_tokens)),
        rollout=Rollout(
            tokens=jnp.zeros(flat, jnp.int32),
            logps=jnp.zeros(flat, jnp.float32),
            nucleus_mass=jnp.ones(flat, jnp.float32),
            length=jnp.zeros((batch, group), jnp.int32),
            done=jnp.zeros((batch, group), bool),
            answer_p=jnp.zeros(flat, jnp.float32) if sampling.answer_ids else None,
        ),
    )


def _append(r: Rollout, drawn: SampledToken, step, stop_ids: tuple[int, ...]) -> Rollout:
    """Adds a token to every completion that has not ended."""

    def add(buffer, value, fill):
        value = jnp.where(r.done, fill, value)[..., None].astype(buffer.dtype)
        return jax.lax.dynamic_update_slice_in_dim(buffer, value, step, axis=2)

    return Rollout(
        tokens=add(r.tokens, drawn.tokens, 0),
        logps=add(r.logps, drawn.logps, 0.0),
        nucleus_mass=add(r.nucleus_mass, drawn.nucleus_mass, 1.0),
        length=r.length + ~r.done,
        done=r.done | jnp.isin(drawn.tokens, jnp.array(stop_ids, jnp.int32)),
        answer_p=None if r.answer_p is None else add(r.answer_p, drawn.answer_p, 0.0),
    )
