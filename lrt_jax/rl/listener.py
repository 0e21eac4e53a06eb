"""The listener: a frozen model that reads a trace without its answer and says what it prefers.

Its verdict and, where it is the reference too, the log-probabilities of the completions come from
the same pass over the group: `score_group` with frozen parameters.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np
from jaxtyping import Array, Float, Int
from transformers import PreTrainedTokenizerBase

from lrt_jax.data.conversation import Style, strip_answer, trace_tokens
from lrt_jax.models import Prompt, Qwen2_5_VL, call
from lrt_jax.rl.completions import Completions
from lrt_jax.rl.logprobs import answer_probability, token_logps


@dataclasses.dataclass(frozen=True)
class FrozenModel:
    """A model that is never trained. Roles that come from one checkpoint share one of these.

    Attributes:
      checkpoint: folder it was loaded from.
      model: the module.
      params: its parameters, in the `train` layout.
      tokenizer: its own.
      answer_ids: ids of the tokens that name the first and the second image.
      same_tower: whether its vision tower equals the policy's, which then encodes for both.
    """

    checkpoint: str
    model: Qwen2_5_VL
    params: Mapping
    tokenizer: PreTrainedTokenizerBase
    answer_ids: tuple[int, int]
    same_tower: bool


@dataclasses.dataclass(frozen=True)
class Listener:
    """A frozen model and how it is asked.

    Attributes:
      frozen: the model.
      style: `judge` reads its own instruction, `continue` takes the trace for its own thought.
      share: weight in the mean over listeners.
      tail: `judge`: ids that follow the trace, and after which the verdict comes.
      width: `judge`: tokens that trace, tail and verdict may have together.
      drop_verdicts: `judge`: whether sentences of the trace that name a winner are cut too.
    """

    frozen: FrozenModel
    style: Style
    share: float = 1.0
    tail: tuple[int, ...] = ()
    width: int = 0
    drop_verdicts: bool = False


@dataclasses.dataclass(frozen=True)
class Reading:
    """What a `judge` reads of each completion: trace and tail, then a place for its verdict.

    Attributes:
      tokens: int32, padded with 0.
      place: int32, index of the verdict.
      cut: how many traces of each group were longer than there was room for, and lost their end.
    """

    tokens: Int[np.ndarray, "B G t"]
    place: Int[np.ndarray, "B G"]
    cut: Int[np.ndarray, " B"]


def judge_reading(completions: Completions, listener: Listener) -> Reading:
    """Tokenises the traces for a `judge`."""
    shape = completions.choice.shape
    room = listener.width - len(listener.tail) - 1
    tokens = np.zeros((*shape, listener.width), np.int32)
    place = np.zeros(shape, np.int32)
    cut = np.zeros(shape[0], np.int64)
    for at in np.ndindex(shape):
        text = completions.traces[at[0]][at[1]]
        if listener.drop_verdicts:
            text = strip_answer(text, drop_verdict_sentences=True)
        trace = trace_tokens(listener.frozen.tokenizer, text)
        cut[at[0]] += len(trace) > room
        read = trace[:room] + listener.tail
        tokens[at][: len(read)], place[at] = read, len(read)
    return Reading(tokens, place, cut)


def frozen_pass(
    model: Qwen2_5_VL,
    params: Mapping,
    prompt: Prompt,
    features: Float[Array, "B m d"],
    tokens: Int[Array, "B G t"],
    place: Int[Array, "B G"],
    *,
    answer_ids: tuple[int, int],
    temperature: float | None = None,
) -> tuple[Float[Array, "B G"], Float[Array, "B G t"] | None]:
    """A frozen model's verdict, and the log-probability of every token if it is asked for.

    Args:
      model: the frozen model.
      params: its parameters.
      prompt: what it reads before the continuations.
      features: merged tokens of the images.
      tokens: continuations.
      place: index in the continuation of the answer token, which itself is not read.
      answer_ids: ids of the two answers.
      temperature: of the log-probabilities; None for no log-probabilities.

    Returns:
      Probability that the first image is preferred, by softmax over the two answers, and
      log-probabilities in nats or None.
    """
    hidden = call(model, params, "score_group", prompt, features, tokens)
    verdict = answer_probability(model, params, hidden, place, answer_ids)
    logps = None
    if temperature is not None:
        logps, _ = token_logps(model, params, hidden, tokens, temperature=temperature)
    return verdict, logps
