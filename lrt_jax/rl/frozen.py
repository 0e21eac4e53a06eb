"""Frozen models: the reference's log-probabilities and a listener's verdict.

Where one model is both, the two come from one pass over the group: `score_group` with frozen
parameters.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import jax
from jax.sharding import Mesh
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int
from transformers import PreTrainedTokenizerBase

from lrt_jax.config.choices import AttentionKernels
from lrt_jax.data.input.tokenizer import answer_token_ids, load_tokenizer, with_tokenizer
from lrt_jax.models import BoundModel, Prompt, VisionLanguageModel, load_model
from lrt_jax.models.api import Features
from lrt_jax.parallel.collectives import batch_sharding
from lrt_jax.rl.logprobs import answer_probability, token_logps
from lrt_jax.rl.microbatches import join, split


@dataclasses.dataclass(frozen=True)
class FrozenModel:
    """A model that is never trained. Roles that come from one checkpoint share one of these."""

    checkpoint: str  # folder it was loaded from
    model: VisionLanguageModel  # the module
    params: Mapping  # its parameters, in the `train` layout
    tokenizer: PreTrainedTokenizerBase  # its own
    answer_ids: tuple[int, int]  # ids of the tokens that name the first and the second image
    same_tower: bool  # whether its vision tower equals the policy's, which then encodes for both


def open_frozen(
    folder: Path, dtype: DTypeLike, *, mesh: Mesh, attention: AttentionKernels = "auto"
) -> FrozenModel:
    """The model of a Hugging Face folder, whose tower is taken for another than the policy's.

    Raises:
      FileNotFoundError: the folder lacks weights or a tokenizer.
      ValueError: its files do not fit each other.
    """
    model, params = load_model(folder, dtype, mesh=mesh, attention=attention)
    tokenizer = load_tokenizer(folder)
    config = with_tokenizer(model.config, tokenizer)
    return FrozenModel(
        checkpoint=str(folder),
        model=model.copy(config=config, sharding=batch_sharding(mesh)),
        params=params,
        tokenizer=tokenizer,
        answer_ids=answer_token_ids(tokenizer),
        same_tower=False,
    )


def frozen_pass(
    model: VisionLanguageModel,
    params: Mapping,
    prompt: Prompt,
    features: Features,
    tokens: Int[Array, "B G t"],
    position: Int[Array, "B G"],
    *,
    answer_ids: tuple[int, int],
    temperature: float | None = None,
    microbatches: int = 1,
) -> tuple[Float[Array, "B G"], Float[Array, "B G t"] | None]:
    """A frozen model's verdict, and the log-probability of every token if it is asked for.

    Args:
      model: the frozen model.
      params: its parameters.
      prompt: what it reads before the continuations.
      features: merged tokens of the images.
      tokens: continuations.
      position: index in the continuation of the answer token, which itself is not read.
      answer_ids: ids of the two answers.
      temperature: of the log-probabilities; None for no log-probabilities.
      microbatches: parts of the batch that are passed one after the other.

    Returns:
      Probability that the first image is preferred, by softmax over the two answers, and
      log-probabilities in nats or None.
    """

    def one(rows):
        prompt, features, tokens, position = rows
        hidden = BoundModel(model, params).score_group(prompt, features, tokens)
        verdict = answer_probability(model, params, hidden, position, answer_ids)
        logps = None
        if temperature is not None:
            logps, _ = token_logps(model, params, hidden, tokens, temperature=temperature)
        return verdict, logps

    rows = (prompt, features, tokens, position)
    if microbatches == 1:
        return one(rows)
    return join(jax.lax.map(one, split(rows, microbatches)))
