"""What a listener may read of a completion: the trace, without what gives the answer away.

The same for every style of listener. It knows the forms in which models write answers, not every
form that there could be: a policy that invents one of its own is read.
"""

import itertools
from collections.abc import Iterable, Sequence

from transformers import PreTrainedTokenizerBase

from lrt_jax.data.input import answer_patterns as patterns
from lrt_jax.data.input.plain_copy import plain_copy
from lrt_jax.data.input.tokenizer import neutralise

PASSES = 4  # over a trace
ELLIPSIS = "…"  # stands where an answer was, so that what was on both sides of it does not join


def strip_answer(text: str, *, drop_verdict_sentences: bool = False) -> str:
    """What a listener may read of a completion, well formed or not.

    All of it is cut from the first `</think>` or answer tag on, opened or closed and in any
    spelling; after that point everything may give the answer away. Before it an answer in another
    usual form, such as `\\boxed{1}`, `answer: one` or 答案是1, becomes an ellipsis, and sentences
    at the end that only give a number, such as `1` or `Thus, one.`, are cut. All else stays as it
    was, character for character.

    Args:
      text: a completion, or what this function left of one.
      drop_verdict_sentences: whether to cut sentences of the trace too that name an image and
        prefer it. A rule of thumb over English and Chinese words: it also drops "the first image
        has better light", and misses a verdict in other words.
    """
    trace = _until_tag(_after_opening(text))
    if drop_verdict_sentences:
        kept = "".join(s for s in patterns.SENTENCE.findall(trace) if not _is_verdict(s))
        trace = _until_tag(kept)  # what was kept may join to one
    return _without_last_number(_without_answers(trace)).strip()


def quotable(trace: str, tokenizer: PreTrainedTokenizerBase) -> str:
    """A trace that cannot end the quotation in which a judge reads it, nor a turn: blanks are put
    into special tokens (see `neutralise`) and into the tags of the quotation.
    """
    trace = neutralise(trace, tokenizer)
    copy = plain_copy(trace)
    tags = [copy.span(tag) for tag in patterns.QUOTATION.finditer(copy.text)]
    return _with(" ", trace, [(end, end) for _, end in tags])


def _after_opening(text: str) -> str:
    copy = plain_copy(text)
    opening = patterns.OPENING.match(copy.text)
    return text[copy.span(opening)[1] :] if opening else text


def _until_tag(trace: str) -> str:
    copy = plain_copy(trace)
    tag = patterns.ANSWER_TAG.search(copy.text)
    return trace[: copy.span(tag)[0]] if tag else trace


def _without_answers(trace: str) -> str:
    """Without answers, nor those that only stand apart once others are gone."""
    for number in itertools.count(1):
        copy = plain_copy(trace)
        spans = [copy.span(answer) for answer in patterns.ANSWER.finditer(copy.text)]
        if not spans:
            return trace
        # It could go on as long as the trace is; what is left is then cut there.
        trace = _with(ELLIPSIS, trace, spans) if number < PASSES else trace[: spans[0][0]]


def _with(new: str, text: str, spans: Iterable[tuple[int, int]]) -> str:
    """The text with something new in place of each span."""
    pieces, rest = [], 0
    for start, end in spans:
        pieces += text[rest:start], new
        rest = end
    return "".join([*pieces, text[rest:]])


def _without_last_number(trace: str) -> str:
    """Without the sentences at the end that are nothing but the number of an image."""
    sentences = patterns.SENTENCE.findall(trace)
    end = len(sentences)
    for i in reversed(range(len(sentences))):
        if _is_bare(sentences, i):
            end = i
        elif not patterns.NOTHING.fullmatch(sentences[i]):
            break
    return "".join(sentences[:end])


def _is_bare(sentences: Sequence[str], i: int) -> bool:
    """Whether a sentence gives the number of an image and says nothing else."""
    sentence, before = sentences[i], sentences[i - 1] if i else "\n"
    plain = plain_copy(sentence).text
    return (
        bool(patterns.BARE.fullmatch(plain))
        and not (before[-1] == "." and before[-2:-1].isdigit())  # it is half of 0.1
        and not patterns.ASKS_COUNT.search(plain_copy(before).text)
        and not (patterns.ORDER.fullmatch(plain) and (":" in plain or not _ends_line(before)))
        and not _goes_on(before, sentence)
    )


def _ends_line(sentence: str) -> bool:
    return "\n" in sentence[len(sentence.rstrip()) :]


def _goes_on(before: str, sentence: str) -> bool:
    """Whether a sentence goes on with the one before: a name with a dot in it, or a broken line."""
    is_name = before[-1] == "." and before[-2:-1].isalnum()
    is_line = before.rstrip()[-1:].isalpha() and before.count("\n") == 1
    is_end = is_line and sentence.rstrip()[-1] == "."
    return sentence.lstrip()[:1].islower() and (is_name or is_end)


def _is_verdict(sentence: str) -> bool:
    plain = plain_copy(sentence).text
    return bool(patterns.NAMES_ONE.search(plain) and patterns.PREFERS.search(plain))
