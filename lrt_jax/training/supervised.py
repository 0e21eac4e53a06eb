"""Learning from given completions by maximum likelihood, the prompt's work done once a group."""

from collections.abc import Mapping

import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, Int

from lrt_jax.models import Images, Prompt, Qwen2_5_VL, call
from lrt_jax.rl.logprobs import token_logps


@struct.dataclass
class Lessons:
    """`B` prompts with `G` completions each that are to be imitated."""

    prompt: Prompt
    images: Images
    tokens: Int[Array, "B G t"]
    length: Int[Array, "B G"]  # tokens, the stop token included


def supervised_loss(model: Qwen2_5_VL, params: Mapping, lessons: Lessons) -> Float[Array, ""]:
    """Mean negative log-likelihood of the completions' tokens, in nats."""
    features = call(model, params, "encode_images", lessons.images)
    hidden = call(model, params, "score_group", lessons.prompt, features, lessons.tokens)
    logps, _ = token_logps(model, params, hidden, lessons.tokens, temperature=1.0)
    mask = jnp.arange(lessons.tokens.shape[-1]) < lessons.length[..., None]
    return -jnp.sum(logps * mask) / jnp.sum(mask)
