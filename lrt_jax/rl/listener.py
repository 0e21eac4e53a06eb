"""The listener: a frozen model that reads a trace without its answer and says what it prefers.

Its verdict and, where it is the reference too, the log-probabilities of the completions come from
the same pass over the group: `score_group` with frozen parameters.
"""

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np
from jaxtyping import Array, Float, Int
from transformers import PreTrainedTokenizerBase

from lrt_jax.config.choices import Style
from lrt_jax.data.input.prompts import around_trace, trace_tokens
from lrt_jax.data.input.tokenizer import token_ids
from lrt_jax.data.input.traces import quotable, strip_answer
from lrt_jax.data.schema import NO_CHOICE
from lrt_jax.models import BoundModel, Prompt, VisionLanguageModel
from lrt_jax.models.api import Features
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
    model: VisionLanguageModel
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
      drop_verdicts: whether sentences of the trace that name a winner are cut too.
    """

    frozen: FrozenModel
    style: Style
    share: float = 1.0
    tail: tuple[int, ...] = ()
    width: int = 0
    drop_verdicts: bool = False


@dataclasses.dataclass(frozen=True)
class Reading:
    """What a listener reads of each completion, and where its verdict comes.

    Attributes:
      tokens: int32, padded with 0; None where all are read as they were sampled.
      answer_position: int32, index of the verdict.
      cut: how many traces of each group were longer than there was room for, and lost their end.
    """

    tokens: Int[np.ndarray, "B G t"] | None
    answer_position: Int[np.ndarray, "B G"]
    cut: Int[np.ndarray, " B"]


def judge_reading(completions: Completions, listener: Listener) -> Reading:
    """What a `judge` reads: trace and tail, then room for its verdict."""
    shape, tokenizer = completions.choice.shape, listener.frozen.tokenizer
    room = listener.width - len(listener.tail) - 1
    tokens = np.zeros((*shape, listener.width), np.int32)
    position = np.zeros(shape, np.int32)
    cut = np.zeros(shape[0], np.int64)
    for at in np.ndindex(shape):
        trace = trace_tokens(tokenizer, _trace_for(completions, at, listener))
        cut[at[0]] += len(trace) > room
        read = trace[:room] + listener.tail
        tokens[at][: len(read)], position[at] = read, len(read)
    return Reading(tokens, position, cut)


def continue_reading(
    completions: Completions, listener: Listener, sampled: Callable[[], Int[np.ndarray, "B G t"]]
) -> Reading:
    """What a `continue` listener reads: what was sampled, up to the answer.

    Where the trace has an answer that a `judge` would not read, or the answer has no token of its
    own before which to stop, it reads the same text without that, tokenised anew. Other tokens that
    a `judge` sees broken up, such as those that end a turn, it reads as the reference does.

    Args:
      completions: what the tokens say.
      listener: who reads.
      sampled: gives the tokens, if they are needed.
    """
    cut = np.zeros(len(completions.choice), np.int64)
    answered = map(tuple, np.argwhere(completions.choice != NO_CHOICE).tolist())
    retold = {at: parts for at in answered if (parts := _retold(completions, at, listener))}
    if not retold:
        return Reading(None, completions.answer_position, cut)
    tokens, position = sampled().copy(), completions.answer_position.copy()
    for at, parts in retold.items():
        read = _fitted(parts, listener.frozen.tokenizer, room=tokens.shape[-1] - 1)
        cut[at[0]] += len(read) < len(token_ids(listener.frozen.tokenizer, "".join(parts)))
        tokens[at], position[at] = 0, len(read)
        tokens[at][: len(read)] = read
    return Reading(tokens, position, cut)


def _trace_for(completions: Completions, at: tuple[int, int], listener: Listener) -> str:
    """A trace as a listener is to read it."""
    trace = completions.traces[at[0]][at[1]]
    return strip_answer(trace, drop_verdict_sentences=True) if listener.drop_verdicts else trace


def _retold(
    completions: Completions, at: tuple[int, int], listener: Listener
) -> tuple[str, str, str] | None:
    """Texts up to a trace, of it, and from there to the answer; None if it is read as sampled."""
    before, trace, after = around_trace(completions.texts[at[0]][at[1]])
    shown = _trace_for(completions, at, listener)
    if shown == trace.strip() and completions.answer_position[at] >= 0:
        return None
    shown = quotable(shown, listener.frozen.tokenizer)  # a text that is tokenised anew
    start = len(trace) - len(trace.lstrip())
    end = max(start, len(trace.rstrip()))
    return before + trace[:start], shown, trace[end:] + after


def _fitted(
    parts: tuple[str, str, str], tokenizer: PreTrainedTokenizerBase, room: int
) -> list[int]:
    """Ids of three texts, of which the second loses its end where there is no room."""
    ids = token_ids(tokenizer, "".join(parts))
    if len(ids) > room:
        before, middle, after = (token_ids(tokenizer, part) for part in parts)
        ids = before + middle[: room - len(before) - len(after)] + after
    return ids


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

    Returns:
      Probability that the first image is preferred, by softmax over the two answers, and
      log-probabilities in nats or None.
    """
    hidden = BoundModel(model, params).score_group(prompt, features, tokens)
    verdict = answer_probability(model, params, hidden, position, answer_ids)
    logps = None
    if temperature is not None:
        logps, _ = token_logps(model, params, hidden, tokens, temperature=temperature)
    return verdict, logps
