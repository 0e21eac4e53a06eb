"""What completions answer, each of them in some way, on the host."""

import dataclasses

import numpy as np
from jaxtyping import Bool, Float, Int
from transformers import PreTrainedTokenizerBase

from lrt_jax.data.input.prompts import cut_trace
from lrt_jax.data.input.tokenizer import token_ids
from lrt_jax.data.schema import FIRST, NO_CHOICE
from lrt_jax.inference.results import Comparison, Reading, compared, contradicts, quantised
from lrt_jax.rl.completions import Completions, decode_completions, own_probability
from lrt_jax.rl.rollout import Rollout, SamplingConfig

ORDERS = (False, True)  # of a request's two rows: whether the images are shown swapped
OPENING, CLOSING = "</think><answer>", "</answer>"  # around an answer that was not given


@dataclasses.dataclass(frozen=True)
class Answers:
    """What `B` groups of `G` completions answer. NumPy."""

    rollout: Rollout  # with room for answers that are appended
    completions: Completions  # what it says
    probability: Float[np.ndarray, "B G"]  # float32, that the first image shown is preferred
    forced: Bool[np.ndarray, "B G"]  # there was no answer, so that one is appended


def read_answers(rollout: Rollout, tokenizer: PreTrainedTokenizerBase, width: int) -> Answers:
    """Reads the answers of a rollout with `answer_p`, from its own logits.

    Args:
      rollout: NumPy.
      tokenizer: of the model.
      width: tokens that the result has room for in each completion.
    """
    completions = decode_completions(rollout, tokenizer)
    probability = own_probability(rollout.answer_p, completions)
    forced = completions.answer_position < 0
    return Answers(_widened(rollout, width), completions, probability, forced)


class Forcing:
    """Appends `</think><answer>` to traces that ended without an answer, and what is read then.

    Args:
      tokenizer: of the model.
      answer_ids: ids of its two answers.
      sampling: of its completions.

    Attributes:
      width: tokens of the longest completion, with what is appended.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        answer_ids: tuple[int, int],
        sampling: SamplingConfig,
    ):
        self._tokenizer, self._answer_ids = tokenizer, answer_ids
        self._closing = [*token_ids(tokenizer, CLOSING), sampling.stop_ids[0]]
        # What of a token belongs to a trace before `<` is at most a token for each character.
        rest = max(piece.find("<") for piece in tokenizer.get_vocab())
        opening = rest + len(token_ids(tokenizer, OPENING))
        self.width = sampling.max_tokens + opening + 1 + len(self._closing)

    def open_answers(self, answers: Answers) -> Answers:
        """With the traces of forced completions ended, so that an answer is to come next."""
        rollout = _copied(answers.rollout)
        position = np.where(answers.forced, 0, answers.completions.answer_position)
        for at in _indices(answers.forced):
            tokens = rollout.tokens[at]
            sampled = tokens[: rollout.length[at] - rollout.done[at]]
            kept, rest = cut_trace(sampled, self._tokenizer)
            opening = token_ids(self._tokenizer, rest + OPENING)
            position[at] = kept + len(opening)
            tokens[kept : position[at]] = opening
        completions = dataclasses.replace(answers.completions, answer_position=position)
        return dataclasses.replace(answers, rollout=rollout, completions=completions)

    def close_answers(self, opened: Answers, probability: Float[np.ndarray, "B G"]) -> Answers:
        """With the likelier answer of each forced completion, and its end.

        Args:
          opened: of `open_answers`.
          probability: read at the answers' positions.
        """
        rollout = _copied(opened.rollout)
        for at in _indices(opened.forced):
            likelier = self._answer_ids[int(probability[at] < 0.5)]
            rest = [likelier, *self._closing]
            start = opened.completions.answer_position[at]
            end = start + len(rest)
            rollout.tokens[at][start:end] = rest
            rollout.length[at], rollout.done[at] = end, True
        return Answers(
            rollout,
            decode_completions(rollout, self._tokenizer),
            np.where(opened.forced, probability, opened.probability),
            opened.forced,
        )


def comparisons(
    answers: Answers, listener: Float[np.ndarray, "B G"] | None, count: int
) -> list[Comparison]:
    """Of the first requests of a batch, whose rows are in `ORDERS`.

    Args:
      answers: of the batch.
      listener: its probability that the first image shown is preferred, NaN where undefined; None
        without one.
      count: of requests.
    """
    return [
        compared(*(_readings(answers, listener, 2 * i + order, order) for order in ORDERS))
        for i in range(count)
    ]


def _readings(
    answers: Answers, listener: Float[np.ndarray, "B G"] | None, row: int, swapped: bool
) -> list[Reading]:
    """Of all completions of a row, turned to the order in which the images were given."""
    return [
        _reading(answers, None if listener is None else float(listener[row, g]), (row, g), swapped)
        for g in range(answers.forced.shape[1])
    ]


def _reading(
    answers: Answers, listener: float | None, at: tuple[int, int], swapped: bool
) -> Reading:
    probability = _as_given(float(answers.probability[at]), swapped)
    # Of no form that a parser takes, even with an answer appended, where there is no choice.
    choice = int(answers.completions.choice[at])
    prefers_first = probability >= 0.5 if choice == NO_CHOICE else (choice == FIRST) != swapped
    heard = None if listener is None or np.isnan(listener) else _as_given(listener, swapped)
    return Reading(
        swapped=swapped,
        trace=answers.completions.traces[at[0]][at[1]],
        probability=probability,
        prefers_first=prefers_first,
        forced=bool(answers.forced[at]),
        listener_probability=heard,
        contradiction=contradicts(heard, float(prefers_first)),
    )


def _as_given(shown_first: float, swapped: bool) -> float:
    """The probability of the image given first, of that of the image shown first."""
    probability = quantised(shown_first)
    return 1.0 - probability if swapped else probability


def _indices(mask: Bool[np.ndarray, "B G"]) -> list[tuple[int, int]]:
    return [(int(row), int(member)) for row, member in np.argwhere(mask)]


def _copied(rollout: Rollout) -> Rollout:
    return _widened(rollout, rollout.tokens.shape[-1])


def _widened(rollout: Rollout, width: int) -> Rollout:
    """A copy of a rollout with room for so many tokens of each completion."""

    def wider(values: Int[np.ndarray, "B G t"] | Float[np.ndarray, "B G t"]) -> np.ndarray:
        return np.pad(values, ((0, 0), (0, 0), (0, width - values.shape[-1])))

    return Rollout(
        tokens=wider(rollout.tokens),
        logps=wider(rollout.logps),
        nucleus_mass=wider(rollout.nucleus_mass),
        length=rollout.length.copy(),
        done=rollout.done.copy(),
    )
