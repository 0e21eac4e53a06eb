"""What is said to the models, and what is read from their replies.

The wording of every prompt is our choice: the prompts of the paper (arXiv 2506.22832) are not
known. The chat template around it is the checkpoint's own. A conversation is one user turn that
shows two images and a caption, up to where the assistant speaks, in one of three styles:

* `reason`: think inside `<think></think>`, then 1 or 2 inside `<answer></answer>`.
* `judge`: weigh another judge's reasoning, then reply with one digit. The text before that
  reasoning is shared by a group, what follows it is the same for all.
* `continue`: as `reason`; the listener takes the trace for its own thought, and its verdict is read
  where the answer's digit stands.
"""

import dataclasses
import re
from collections.abc import Sequence
from typing import NamedTuple, get_args

import numpy as np
from jaxtyping import Int
from transformers import PreTrainedTokenizerBase

from lrt_jax.config import PromptOptions
from lrt_jax.config.choices import Style
from lrt_jax.config.schema import CRITERION
from lrt_jax.data.input.chat_template import bounded
from lrt_jax.data.input.patches import order_of
from lrt_jax.data.input.tokenizer import DIGITS, neutralise, token_ids
from lrt_jax.data.input.traces import quotable, strip_answer
from lrt_jax.data.schema import FIRST, NO_CHOICE, SECOND, Prompt
from lrt_jax.models.api import ModelConfig
from lrt_jax.models.inputs import Grid

STYLES = get_args(Style)


class Wording(NamedTuple):
    """What is asked where people judged by one criterion, of all styles and of the reasoner."""

    question: str
    task: str


_TASK = "Compare the images inside <think></think>, then answer 1 or 2 inside <answer></answer>."
WORDINGS = {
    "overall": Wording("Which image would most people prefer for this caption?", _TASK),
    "alignment": Wording(
        "Which image would most people say follows this caption more closely?", _TASK
    ),
    "coherence": Wording(
        "Which image would most people say has fewer flaws, whatever the caption?", _TASK
    ),
    "style": Wording(
        "Which image would most people say looks better, whatever the caption?", _TASK
    ),
}
# A group shares what stands before the trace; what stands after it is read by every member.
JUDGE_BEFORE = (
    "Another judge reasoned about this as follows. Check that against the images, then answer with "
    "one digit and nothing else, 1 or 2.\n<reasoning>\n"
)
JUDGE_AFTER = "</reasoning>"
OWN = PromptOptions()  # no text of a config's
_TRACE_MARK = "[[the trace]]"  # stands where a trace will, and is cut out before tokenising


class PromptTooLong(ValueError):
    """A prompt has more tokens than its bucket.

    Attributes:
      length: tokens of the prompt.
      bucket: tokens that the bucket holds.
    """

    def __init__(self, length: int, bucket: int):
        super().__init__(length, bucket)  # the arguments, so that it survives pickling
        self.length, self.bucket = length, bucket

    def __str__(self) -> str:
        return (
            f"a prompt of {self.length:,} tokens does not fit into a bucket of {self.bucket:,}: "
            "make the bucket longer, allow fewer pixels per image, or leave out long captions"
        )


# ---------------------------------------------------------------------------- prompts


def wording(criterion: str, options: PromptOptions = OWN) -> Wording:
    """What is asked about pairs that were judged by a criterion.

    Args:
      criterion: one of `WORDINGS`.
      options: texts of a config, which stand for those of `WORDINGS`.

    Raises:
      ValueError: nobody knows how to ask for that criterion.
    """
    if criterion not in WORDINGS:
        raise ValueError(f"criterion {criterion!r} is not one of {', '.join(WORDINGS)}")
    own = WORDINGS[criterion]
    return Wording(
        _filled(options.question, own.question, criterion),
        _filled(options.instruction, own.task, criterion),
    )


def judge_frame(options: PromptOptions = OWN) -> tuple[str, str]:
    """What stands before and after the trace that a judge weighs; a config's text as it is."""
    before, after = options.judge_before, options.judge_after
    return JUDGE_BEFORE if before is None else before, JUDGE_AFTER if after is None else after


def _filled(given: str | None, own: str, criterion: str) -> str:
    return own if given is None else given.replace(CRITERION, criterion)


def messages(
    caption: str,
    style: Style,
    trace: str = "",
    criterion: str = "overall",
    options: PromptOptions = OWN,
) -> list[dict]:
    """One user turn about two images, for `apply_chat_template`.

    Args:
      caption: free of special tokens, see `neutralise`.
      style: one of `STYLES`.
      trace: what the other judge said, for `judge` only: empty, or ending in a line end.
      criterion: what to judge by, one of `WORDINGS`.
      options: texts of a config.

    Raises:
      ValueError: nobody knows how to ask for that criterion.
    """
    question, task = wording(criterion, options)
    if style == "judge":
        before, after = judge_frame(options)
        task = f"{before.replace(CRITERION, criterion)}{trace}{after}"
    content = [
        {"type": "text", "text": "Image 1:"},
        {"type": "image"},
        {"type": "text", "text": "\nImage 2:"},
        {"type": "image"},
        {"type": "text", "text": f"\nCaption: {caption}\n{question}\n{task}"},
    ]
    return [{"role": "user", "content": content}]


def render(
    tokenizer: PreTrainedTokenizerBase,
    caption: str,
    style: Style,
    trace: str = "",
    criterion: str = "overall",
    options: PromptOptions = OWN,
) -> str:
    """The conversation as the checkpoint's chat template writes it, up to the assistant's turn.

    Raises:
      ValueError: the template does not end.
    """
    turn = messages(neutralise(caption, tokenizer), style, trace, criterion, options)
    with bounded():
        return tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)


@dataclasses.dataclass(frozen=True)
class JudgePrompt:
    """The judge's conversation about one caption, cut where the trace stands."""

    prefix: str  # text before the trace, shared by a group
    tail: str  # text after it, the same for every caption; the next token is the verdict
    tail_tokens: tuple[int, ...]  # the tail's ids


def judge_prompt(
    tokenizer: PreTrainedTokenizerBase,
    caption: str,
    criterion: str = "overall",
    options: PromptOptions = OWN,
) -> JudgePrompt:
    """Cuts the judge's conversation about `caption` in two.

    Tokens of prefix, `trace_tokens` and tail, one after the other, are those of the whole text: the
    pre-tokeniser never joins a line end to the word or mark that follows it.
    """
    # From the right: the caption comes before the trace, and could contain the mark.
    text = render(tokenizer, caption, "judge", _TRACE_MARK, criterion, options)
    prefix, mark, tail = text.rpartition(_TRACE_MARK)
    if not mark:
        raise ValueError("the chat template changes the text of a message; the trace has no place")
    return JudgePrompt(prefix, tail, tuple(token_ids(tokenizer, tail)))


def trace_tokens(tokenizer: PreTrainedTokenizerBase, trace: str) -> tuple[int, ...]:
    """Ids of a trace as a listener reads it, to stand before `JudgePrompt.tail_tokens`."""
    trace = trace.strip()
    return tuple(token_ids(tokenizer, quotable(trace, tokenizer) + "\n")) if trace else ()


# ---------------------------------------------------------------------------- encoding


def _check_texts(options: PromptOptions, tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuses texts of a config that would end the turn, add an image or hide the trace."""
    reserved = (_TRACE_MARK, *tokenizer.all_special_tokens)
    for name, text in dataclasses.asdict(options).items():
        if held := next((token for token in reserved if token in (text or "")), None):
            raise ValueError(f"prompts.{name}: {held} has a meaning of its own; leave it out")


@dataclasses.dataclass(frozen=True)
class PromptEncoder:
    """Turns a caption and the grids of its two images into a padded `Prompt`. Can be pickled."""

    tokenizer: PreTrainedTokenizerBase  # from `load_tokenizer`
    config: ModelConfig  # of the model that reads the prompt
    style: Style  # one of `STYLES`; `judge` encodes the prefix alone
    bucket: int  # tokens `s` of every prompt, padding included
    max_patches: int  # patches `p` that the batch holds for each image
    options: PromptOptions = OWN  # texts of a config, in place of the project's own

    def __post_init__(self):
        _check_texts(self.options, self.tokenizer)
        unit = self.config.vision.merge_unit
        if self.style not in STYLES:
            raise ValueError(f"prompt style {self.style!r} is not one of {', '.join(STYLES)}")
        if self.max_patches < unit or self.max_patches % unit:
            raise ValueError(f"max_patches {self.max_patches} is not a multiple of {unit}")

    def text(self, caption: str, criterion: str = "overall") -> str:
        """The prompt as text, each image as the family's one token for an image.

        Raises:
          ValueError: the chat template does not show two images.
        """
        if self.style == "judge":
            text = judge_prompt(self.tokenizer, caption, criterion, self.options).prefix
        else:
            text = render(
                self.tokenizer, caption, self.style, criterion=criterion, options=self.options
            )
        if (shown := text.count(self.config.image_token)) != 2:
            raise ValueError(
                f"the chat template writes {shown} {self.config.image_token} for two images; it is "
                "a template for text alone: take chat_template.json or .jinja of the checkpoint"
            )
        return text

    def encode(self, caption: str, grids: Sequence[Grid], criterion: str = "overall") -> Prompt:
        """Encodes one pair.

        Args:
          caption: any text; special tokens in it are broken up (see `neutralise`).
          grids: height and width of the two images, in patches.
          criterion: what to judge by, one of `WORDINGS`.

        Returns:
          Unbatched NumPy arrays, all int32, padded on the right: tokens [s] and positions [3, s]
          with 0, image_index [s] with -1; length is a scalar.

        Raises:
          PromptTooLong: the prompt has more than `bucket` tokens.
          ValueError: not two images, an image of more than `max_patches` patches, an unknown
            criterion, or a chat template whose last token is an image.
        """
        index = self._image_index(grids)
        tokens = self._tokens(caption, grids, criterion)
        if len(tokens) > self.bucket:
            raise PromptTooLong(len(tokens), self.bucket)
        positions = self.config.positions(tokens, grids)
        image_index = np.full(len(tokens), -1, np.int32)
        image_index[tokens == self.config.image_token_id] = index
        if image_index[-1] >= 0:
            raise ValueError("the last token of a prompt must be text, this one ends in an image")
        return Prompt(
            tokens=self._padded(tokens, 0),
            positions=self._padded(positions, 0),
            image_index=self._padded(image_index, -1),
            length=np.int32(len(tokens)),
        )

    def length(self, caption: str, grids: Sequence[Grid], criterion: str = "overall") -> int:
        """Tokens of the prompt about two images, whatever the bucket."""
        return len(self._tokens(caption, grids, criterion))

    def _tokens(self, caption: str, grids: Sequence[Grid], criterion: str) -> Int[np.ndarray, " n"]:
        tokens = np.asarray(token_ids(self.tokenizer, self.text(caption, criterion)), np.int32)
        repeats = np.ones(len(tokens), np.int32)
        merged = [height * width // self.config.vision.merge_unit for height, width in grids]
        repeats[tokens == self.config.image_token_id] = merged
        return np.repeat(tokens, repeats)

    def _image_index(self, grids: Sequence[Grid]) -> Int[np.ndarray, " m"]:
        """For every image token, in the order of the prompt, its index among the pair's tokens."""
        if len(grids) != 2:
            raise ValueError(f"a prompt shows two images, got the grids of {len(grids)}")
        for height, width in grids:
            if height * width > self.max_patches:
                raise ValueError(
                    f"an image of {height}x{width} patches is larger than the {self.max_patches} "
                    "that the batch holds: allow fewer pixels per image, or more patches"
                )
        room = self.max_patches // self.config.vision.merge_unit
        slots = [order_of(tuple(grid), self.config.vision).token_slot for grid in grids]
        return np.concatenate([slot + k * room for k, slot in enumerate(slots)])

    def _padded(self, values: np.ndarray, fill: int) -> np.ndarray:
        padded = np.full((*values.shape[:-1], self.bucket), fill, values.dtype)
        padded[..., : values.shape[-1]] = values
        return padded


# ---------------------------------------------------------------------------- replies

# Blanks are ASCII's, so that `_ANSWER_DIGIT` can tell the same ones.
_WELL_FORMED = re.compile(
    r"\s*<think>(?P<trace>.*)</think>\s*<answer>\s*(?P<digit>[12])\s*</answer>\s*",
    re.DOTALL | re.ASCII,
)
# In the spelling of byte-level BPE a character is a byte: printable ones stand for themselves,
# the bytes 0 to 32 are moved up by 256 (GPT-2).
_ANSWER_DIGIT = re.compile("<answer>[ \t-\r\u0109-\u010d\u0120]*([12])")
_TRACE_END = re.compile("</think>|<answer>")
_TAGS = ("<think>", "</think>", "<answer>", "</answer>")


@dataclasses.dataclass(frozen=True)
class Parsed:
    """A completion as it was read."""

    well_formed: bool  # whether all of it is `<think>..</think><answer>1|2</answer>`, blanks aside
    choice: int  # FIRST or SECOND; `NO_CHOICE` where it is not well formed
    trace: str  # what was thought, without tags and without what `strip_answer` takes


def parse(text: str) -> Parsed:
    """Reads a completion, without its stop token. Any text can be read; none raises."""
    match = _WELL_FORMED.fullmatch(text) if all(text.count(tag) == 1 for tag in _TAGS) else None
    if match is None:
        return Parsed(False, NO_CHOICE, strip_answer(text))
    choice = FIRST if match["digit"] == DIGITS[FIRST] else SECOND
    return Parsed(True, choice, strip_answer(text))


def around_trace(text: str) -> tuple[str, str, str]:
    """Cuts a well formed completion: up to its trace, the trace, and from there to its answer."""
    match = _WELL_FORMED.fullmatch(text)
    start, end = match.span("trace")
    return text[:start], text[start:end], text[end : match.start("digit")]


def answer_position(
    tokens: Sequence[int] | Int[np.ndarray, " t"],
    tokenizer: PreTrainedTokenizerBase,
    parsed: Parsed,
) -> int:
    """Index of the answer's digit among a completion's tokens, stop token or not.

    Looks at the tokens' own spelling and not at decoded text: a token may be part of a character,
    and sampled tokens need not be those that the tokenizer would make of the same text.

    Returns:
      -1 where the completion is not well formed, or where the digit shares its token with other
      text, so that no single token is the verdict.
    """
    if not parsed.well_formed:
        return -1
    spelling, ends = _spelling(tokens, tokenizer)
    match = _ANSWER_DIGIT.search(spelling)
    if match is None:
        return -1
    index = int(np.searchsorted(ends, match.start(1), side="right"))
    alone = ends[index] == match.end(1) and (ends[index - 1] if index else 0) == match.start(1)
    return index if alone else -1


def cut_trace(
    tokens: Sequence[int] | Int[np.ndarray, " t"], tokenizer: PreTrainedTokenizerBase
) -> tuple[int, str]:
    """Where a completion's trace ends: at the first `</think>` or `<answer>`, or with its tokens.

    Returns:
      How many tokens come before that, and the beginning of the next one where it is part of the
      trace still, as of `.</`.
    """
    spelling, ends = _spelling(tokens, tokenizer)
    match = _TRACE_END.search(spelling)
    if match is None:
        return len(ends), ""
    kept = int(np.searchsorted(ends, match.start(), side="right"))
    rest = spelling[ends[kept - 1] if kept else 0 : match.start()]
    return kept, tokenizer.convert_tokens_to_string([rest]) if rest else ""


def _spelling(
    tokens: Sequence[int] | Int[np.ndarray, " t"], tokenizer: PreTrainedTokenizerBase
) -> tuple[str, Int[np.ndarray, " t"]]:
    """The tokens' own spelling, and where in it each ends."""
    # Ids beyond the vocabulary, by which models are padded, have no spelling.
    pieces = [x or "" for x in tokenizer.convert_ids_to_tokens([int(token) for token in tokens])]
    return "".join(pieces), np.cumsum([len(piece) for piece in pieces], dtype=np.int64)
