"""Frozen models: the reference's log-probabilities and a listener's verdict.

Where one model is both, the two come from one pass over its weights, whether it reads one prompt
for both or one for each: `score_groups` with frozen parameters.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

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


class Reading(NamedTuple):
    """What a frozen model reads of a batch, and where it gives its verdict.

    Attributes:
      prompt: what it reads before the continuations.
      tokens: continuations.
      position: index in the continuation of the answer token, which itself is not read; None where
        no verdict is asked for.
    """

    prompt: Prompt
    tokens: Int[Array, "B G t"]
    position: Int[Array, "B G"] | None


@dataclasses.dataclass
class FrozenPass:
    """All that one frozen model is asked of a batch, in one pass over its weights.

    Attributes:
      frozen: the model.
      temperature: of the log-probabilities of the first reading, which is then the reference's;
        None where it is asked for none.
      readings: what it reads.
      listeners: of each reading, the index of the listener whose verdict it gives; None of what the
        reference alone reads.
    """

    frozen: FrozenModel
    temperature: float | None = None
    readings: list[Reading] = dataclasses.field(default_factory=list)
    listeners: list[int | None] = dataclasses.field(default_factory=list)

    def add(self, reading: Reading, listener: int | None) -> None:
        """One reading more."""
        self.readings.append(reading)
        self.listeners.append(listener)

    def inputs(self, features: Mapping[str | None, Features]) -> tuple:
        """Arguments of `frozen_pass`, of features by checkpoint."""
        frozen = self.frozen
        return frozen.model, frozen.params, features[frozen.checkpoint], tuple(self.readings)

    def options(self, microbatches: int) -> dict[str, Any]:
        """Its arguments by name."""
        options = {"answer_ids": self.frozen.answer_ids, "temperature": self.temperature}
        return options | {"microbatches": microbatches}


def frozen_pass(
    model: VisionLanguageModel,
    params: Mapping,
    features: Features,
    readings: tuple[Reading, ...],
    *,
    answer_ids: tuple[int, int],
    temperature: float | None = None,
    microbatches: int = 1,
) -> tuple[tuple[Float[Array, "B _"] | None, ...], Float[Array, "B G t"] | None]:
    """A frozen model's verdicts, and log-probabilities of the first reading if they are asked for.

    Args:
      model: the frozen model.
      params: its parameters.
      features: merged tokens of the images, which all readings are of.
      readings: what it reads.
      answer_ids: ids of the two answers.
      temperature: of the log-probabilities; None for no log-probabilities.
      microbatches: parts of the batch that are passed one after the other.

    Returns:
      For each reading the probability that the first image is preferred, by softmax over the two
      answers, or None; and the log-probability of every token of the first, in nats, or None.
    """

    def one(rows):
        features, readings = rows
        prompts, tokens, positions = zip(*readings, strict=True)
        hidden = BoundModel(model, params).score_groups(prompts, features, tokens)
        verdicts = tuple(
            None if at is None else answer_probability(model, params, x, at, answer_ids)
            for x, at in zip(hidden, positions, strict=True)
        )
        logps = None
        if temperature is not None:
            logps, _ = token_logps(model, params, hidden[0], tokens[0], temperature=temperature)
        return verdicts, logps

    rows = (features, readings)
    if microbatches == 1:
        return one(rows)
    return join(jax.lax.map(one, split(rows, microbatches)))
