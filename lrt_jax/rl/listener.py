"""The listener: a frozen model that reads a trace without its answer and says what it prefers."""

import dataclasses
from collections.abc import Callable

import numpy as np
from jaxtyping import Int
from transformers import PreTrainedTokenizerBase

from lrt_jax.config import ListenerSpec, PromptOptions
from lrt_jax.config.choices import Style
from lrt_jax.data.input.prompts import around_trace, judge_prompt, trace_tokens
from lrt_jax.data.input.tokenizer import token_ids
from lrt_jax.data.input.traces import quotable, strip_answer
from lrt_jax.data.schema import NO_CHOICE
from lrt_jax.models import ModelConfig
from lrt_jax.rl.completions import Completions
from lrt_jax.rl.frozen import FrozenModel

NO_TRACE = "<think></think><answer>"  # what a `continue` listener reads where nobody has thought


@dataclasses.dataclass(frozen=True)
class Listener:
    """A frozen model and how it is asked."""

    frozen: FrozenModel  # the model
    # `judge` reads its own instruction, `continue` takes the trace for its own thought
    style: Style
    share: float = 1.0  # weight in the mean over listeners
    # `judge`: ids that follow the trace, and after which the verdict comes
    tail: tuple[int, ...] = ()
    width: int = 0  # `judge`: tokens that trace, tail and verdict may have together
    drop_verdicts: bool = False  # whether sentences of the trace that name a winner are cut too


@dataclasses.dataclass(frozen=True)
class ListenerInput:
    """What a listener reads of each completion, and where its verdict comes."""

    # int32, padded with 0; None where all are read as they were sampled
    tokens: Int[np.ndarray, "B G t"] | None
    answer_position: Int[np.ndarray, "B G"]  # int32, index of the verdict
    # how many traces of each group were longer than there was room for, and lost their end
    cut: Int[np.ndarray, " B"]


def make_listener(
    frozen: FrozenModel,
    asked: ListenerSpec,
    tokenizer: PreTrainedTokenizerBase,
    policy: ModelConfig,
    *,
    prompts: PromptOptions,
    completion_length: int,
) -> Listener:
    """A listener of a policy.

    Args:
      frozen: the model that listens.
      asked: how it is asked; its path is not looked at.
      tokenizer: the policy's.
      policy: sizes of the policy.
      prompts: texts of a config.
      completion_length: tokens of the policy's completions at most.

    Raises:
      ValueError: it cannot read what it would be given.
    """
    tail = ()
    if asked.style == "judge":
        tail = judge_prompt(frozen.tokenizer, "", options=prompts).tail_tokens
    width = judge_width(completion_length, len(tail))
    listener = Listener(frozen, asked.style, asked.share, tail, width, asked.drop_verdicts)
    _check_tower(frozen, policy)
    _check_tokens(listener, tokenizer)
    return listener


def judge_width(completion_length: int, tail: int) -> int:
    """Tokens that a `judge` reads and says: a trace as long as any completion, its tail, a verdict.

    Args:
      completion_length: tokens of a completion at most.
      tail: tokens that follow the trace.
    """
    return completion_length + tail + 1


def tokens_without_trace(listener: Listener) -> list[int]:
    """Ids of all that a listener reads before its verdict where there is no trace."""
    if listener.style == "judge":
        return [*listener.tail]
    return token_ids(listener.frozen.tokenizer, NO_TRACE)


def judge_input(completions: Completions, listener: Listener) -> ListenerInput:
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
    return ListenerInput(tokens, position, cut)


def continue_input(
    completions: Completions, listener: Listener, sampled: Callable[[], Int[np.ndarray, "B G t"]]
) -> ListenerInput:
    """What a `continue` listener reads: the sampled tokens up to the answer.

    Where the trace gives the answer away, or the answer has no token of its own before which to
    stop, it reads the cleaned text, tokenised anew. Special tokens inside of a trace stay as they
    were sampled, as the reference reads them.

    Args:
      completions: what the tokens say.
      listener: who reads.
      sampled: gives the tokens, if they are needed.
    """
    cut = np.zeros(len(completions.choice), np.int64)
    answered = map(tuple, np.argwhere(completions.choice != NO_CHOICE).tolist())
    changed = {
        at: parts for at in answered if (parts := _without_answer(completions, at, listener))
    }
    if not changed:
        return ListenerInput(None, completions.answer_position, cut)
    tokens, position = sampled().copy(), completions.answer_position.copy()
    for at, parts in changed.items():
        read = _truncate_middle(parts, listener.frozen.tokenizer, room=tokens.shape[-1] - 1)
        cut[at[0]] += len(read) < len(token_ids(listener.frozen.tokenizer, "".join(parts)))
        tokens[at], position[at] = 0, len(read)
        tokens[at][: len(read)] = read
    return ListenerInput(tokens, position, cut)


def _trace_for(completions: Completions, at: tuple[int, int], listener: Listener) -> str:
    """A trace as a listener is to read it."""
    trace = completions.traces[at[0]][at[1]]
    return strip_answer(trace, drop_verdict_sentences=True) if listener.drop_verdicts else trace


def _without_answer(
    completions: Completions, at: tuple[int, int], listener: Listener
) -> tuple[str, str, str] | None:
    """Text before the trace, the cleaned trace, text up to the answer; None if nothing changes."""
    before, trace, after = around_trace(completions.texts[at[0]][at[1]])
    shown = _trace_for(completions, at, listener)
    if shown == trace.strip() and completions.answer_position[at] >= 0:
        return None
    shown = quotable(shown, listener.frozen.tokenizer)  # a text that is tokenised anew
    start = len(trace) - len(trace.lstrip())
    end = max(start, len(trace.rstrip()))
    return before + trace[:start], shown, trace[end:] + after


def _truncate_middle(
    parts: tuple[str, str, str], tokenizer: PreTrainedTokenizerBase, room: int
) -> list[int]:
    """Ids of three texts, of which the second loses its end where there is no room."""
    ids = token_ids(tokenizer, "".join(parts))
    if len(ids) > room:
        before, middle, after = (token_ids(tokenizer, part) for part in parts)
        ids = before + middle[: room - len(before) - len(after)] + after
    return ids


def _check_tokens(listener: Listener, policy: PreTrainedTokenizerBase) -> None:
    """A `continue` listener reads the policy's own tokens, so they must mean the same to both."""
    theirs = listener.frozen.tokenizer
    if listener.style == "continue" and theirs.get_vocab() != policy.get_vocab():
        raise ValueError(
            f"listener {listener.frozen.checkpoint}: style 'continue' needs the policy's "
            "tokenizer, and it has another; use listener.style=judge"
        )


def _check_tower(frozen: FrozenModel, policy: ModelConfig) -> None:
    """All models are shown the same patches."""
    theirs, own = (
        {"model_type": x.model_type, **x.vision.sizes} for x in (frozen.model.config, policy)
    )
    for name, asked in own.items():
        if theirs.get(name) != asked:
            raise ValueError(
                f"listener {frozen.checkpoint}: {name} of its vision tower is {theirs.get(name)}, "
                f"the policy's is {asked}; they must be shown the same patches"
            )
