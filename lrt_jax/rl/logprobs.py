"""Log-probabilities: in float32, divided by the temperature, without the banned ids."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from lrt_jax.models import BoundModel, VisionLanguageModel

NEVER = -1e30  # logit of a banned token; finite, so that its gradient is zero and not NaN


def tempered_logits(
    logits: Float[Array, "*b v"], temperature: float, banned: tuple[int, ...]
) -> Float[Array, "*b v"]:
    """Logits of the distribution that is sampled: banned ids out, divided by the temperature."""
    ids, end = jnp.arange(logits.shape[-1]), logits.shape[-1]
    while end - 1 in banned:  # those that fill up a table are its last, and may be hundreds
        end -= 1
    is_banned = jnp.isin(ids, jnp.array([x for x in banned if x < end], jnp.int32))
    if end < logits.shape[-1]:
        is_banned |= ids >= end
    return jnp.where(is_banned, NEVER, logits.astype(jnp.float32) / temperature)


def take_logps(logps: Float[Array, "*b v"], tokens: Int[Array, "*b"]) -> Float[Array, "*b"]:
    """Entry of each row; by comparison, since the gradient of a gather would be a scatter."""
    chosen = jnp.arange(logps.shape[-1]) == tokens[..., None]
    return jnp.sum(jnp.where(chosen, logps, 0.0), axis=-1)


def token_logps(
    model: VisionLanguageModel,
    params: Mapping,
    hidden: Float[Array, "B G t d"],
    tokens: Int[Array, "B G t"],
    *,
    temperature: float,
    chunk: int = 128,
) -> tuple[Float[Array, "B G t"], Float[Array, "B G t"]]:
    """Log-probability of each token and entropy of the distribution it was drawn from, in nats.

    The vocabulary is wide, so that logits are made for at most `chunk` positions of the `t` at a
    time and made again in the backward pass: `[B, G, t, v]` never exists.
    """
    banned = model.config.banned_token_ids
    time = tokens.shape[-1]
    chunk = min(chunk, time)
    missing = -time % chunk

    def split(x):
        x = jnp.pad(x, [(0, 0), (0, 0), (0, missing)] + [(0, 0)] * (x.ndim - 3))
        return jnp.moveaxis(x.reshape(*x.shape[:2], -1, chunk, *x.shape[3:]), 2, 0)

    def join(x):
        x = jnp.moveaxis(x, 0, 2)
        return x.reshape(*x.shape[:2], -1)[..., :time]

    def by_chunks(to_logits, hidden, tokens):
        @jax.checkpoint
        def one_chunk(piece):
            hidden, tokens = piece
            logits = tempered_logits(to_logits(hidden), temperature, banned)
            # Not by `log_softmax`, whose result would be read again: here one reading is enough.
            relative = logits - jax.lax.stop_gradient(logits.max(axis=-1, keepdims=True))
            weights = jnp.exp(relative)
            total = weights.sum(axis=-1)
            mean = jnp.sum(weights * relative, axis=-1) / total
            return take_logps(relative, tokens) - jnp.log(total), jnp.log(total) - mean

        return jax.tree.map(join, jax.lax.map(one_chunk, (split(hidden), split(tokens))))

    with jax.named_scope("token_logps"):
        return BoundModel(model, params).with_head(by_chunks, hidden, tokens)


def answer_probability(
    model: VisionLanguageModel,
    params: Mapping,
    hidden: Float[Array, "B G t d"],
    position: Int[Array, "B G"],
    answer_ids: tuple[int, int],
) -> Float[Array, "B G"]:
    """Probability of the first answer against the second, where the answer stands.

    Args:
      model: of `load_model`.
      params: of `load_model`.
      hidden: of `score_group`: entry `i` predicts token `i`.
      position: index of the answer token.
      answer_ids: ids of the tokens that name the first and the second image.
    """
    at = jnp.maximum(position, 0)[..., None, None]
    hidden = jnp.take_along_axis(hidden, at, axis=2)[:, :, 0]
    logits = BoundModel(model, params).logits_of(hidden, jnp.array(answer_ids, jnp.int32))
    return _first_of_two(logits)


def first_answer(logits: Float[Array, "*b v"], answer_ids: tuple[int, int]) -> Float[Array, "*b"]:
    """As `answer_probability`, of logits over the vocabulary, as they were before any tempering."""
    ids = jnp.arange(logits.shape[-1])
    # By comparison, since a vocabulary that is divided over devices would be gathered.
    two = [jnp.sum(jnp.where(ids == answer, logits, 0.0), axis=-1) for answer in answer_ids]
    return _first_of_two(jnp.stack(two, axis=-1))


def _first_of_two(logits: Float[Array, "*b 2"]) -> Float[Array, "*b"]:
    return jax.nn.softmax(logits, axis=-1)[..., 0]
