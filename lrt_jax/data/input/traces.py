"""What a listener may read of a completion: the trace, without what gives the answer away.

The same for every style of listener. It knows the forms in which models write answers, not every
form that there could be: a policy that invents one of its own is read.
"""

import re
from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from lrt_jax.data.input.tokenizer import neutralise

ELLIPSIS = "…"  # stands where an answer was, so that what was on both sides of it does not join

# Other signs for the same, one for one: full-width and circled ones, other brackets.
_FOLD = {0xFF01 + i: 0x21 + i for i in range(94)}
_FOLD |= str.maketrans("〈《【〉》】①②❶❷¹²", "<<<>>>121212")

# Tags in any spelling a reader would take for one. What follows them is not read at all.
_OPENING = re.compile(r"\s*<\s*think\s*>", re.IGNORECASE)
_ANSWER_TAG = re.compile(
    r"<\s*/\s*think\s*>|<\s*(?:/\s*)?(?:final[\s_-]?)?(?:answer|ans\b|choice|verdict|答案)",
    re.IGNORECASE,
)
_QUOTATION = re.compile(r"(<\s*(?:/\s*)?r)(easoning)", re.IGNORECASE)

_MARK = r"""[\s*_`"'“”‘’()\[\]{}<>:=#$\\-]"""
_IMAGE = r"image|picture|photo|option|number|the|图片|图像|图|第"
_BOTH = rf"(?:,|/|、|or|and|vs\.?|或者?|和|与|还是)\s*(?:(?:{_IMAGE})\s*)?[12一二]"
_ANSWER = re.compile(
    rf"""
      \\?boxed \s? (?: \{{ (?: [^{{}}\n] | \{{ [^{{}}\n]{{0,40}} \}} ){{0,80}} \}}? | [12] )
    | (?: answer | (?:choice|verdict|decision|winner) (?={_MARK}{{0,4}}(?:[:=]|is\b|was\b))
        | 答案 | 结论 | 选择? )
      (?: {_MARK} | is | was | be | would | should | must | 是 | 为 | 应 | 该 | {_IMAGE} ){{0,12}}
      (?: [12] | (?<=[第图片像]) [一二] )
      (?! \d | \.\d | \s?{_BOTH} )
    """,
    re.IGNORECASE | re.VERBOSE,
)
_BARE = re.compile(
    rf"[\W_]*(?:(?:{_IMAGE})[\W_]*)?(?:[12]|(?<=[第图片像])[一二])张?[\W_]*", re.IGNORECASE
)
_NOTHING = re.compile(r"[\W_]*")
_SENTENCE = re.compile(r"[^.!?。！？\n]*[.!?。！？\n]+\s*|[^.!?。！？\n]+")

_NAMES_ONE = re.compile(
    r"\b(?:image|picture|option|number)\s*[12]\b|\b(?:first|second)\b|\banswer\b"
    r"|第[一二]|(?:图片|图像|图)\s*[12一二]|答案",
    re.IGNORECASE,
)
_PREFERS = re.compile(
    r"\b(?:better|best|prefer\w*|wins?|winner|superior|choose|chosen|pick|favou?r\w*|answer)\b"
    r"|[更最][好佳优]|优于|胜|选|喜欢|偏好|答案",
    re.IGNORECASE,
)


def strip_answer(text: str, *, drop_verdict_sentences: bool = False) -> str:
    """What a listener may read of a completion, well formed or not.

    All of it is cut from the first `</think>` or answer tag on, opened or closed and in any
    spelling; after that point everything may give the answer away. Before it an answer in another
    usual form, such as `\\boxed{1}`, `answer: 1` or 答案是1, becomes an ellipsis, and a digit that
    stands alone at the end is cut.

    Args:
      text: a completion, or what this function left of one.
      drop_verdict_sentences: whether to cut sentences of the trace too that name an image and
        prefer it. A rule of thumb over English and Chinese words: it also drops "the first image
        has better light", and misses a verdict in other words.
    """
    opening = _OPENING.match(_folded(text))
    trace = _until_tag(text[opening.end() :] if opening else text)
    if drop_verdict_sentences:
        kept = "".join(s for s in _SENTENCE.findall(trace) if not _is_verdict(s))
        trace = _until_tag(kept)  # what was kept may join to one
    return _without_last_digit(_without_answers(trace)).strip()


def quotable(trace: str, tokenizer: PreTrainedTokenizerBase) -> str:
    """A trace that cannot end the quotation in which a judge reads it, nor a turn: blanks are put
    into special tokens (see `neutralise`) and into the tags of the quotation.
    """
    return _QUOTATION.sub(r"\1 \2", neutralise(trace, tokenizer))


def _folded(text: str) -> str:
    """The text in plain signs, each where it was."""
    return text.translate(_FOLD)


def _until_tag(trace: str) -> str:
    tag = _ANSWER_TAG.search(_folded(trace))
    return trace[: tag.start()] if tag else trace


def _without_answers(trace: str) -> str:
    pieces, start = [], 0
    for answer in _ANSWER.finditer(_folded(trace)):
        pieces += trace[start : answer.start()], ELLIPSIS
        start = answer.end()
    return "".join([*pieces, trace[start:]])


def _without_last_digit(trace: str) -> str:
    """Without the sentences at the end that are nothing but the number of an image."""
    sentences = _SENTENCE.findall(trace)
    end = len(sentences)
    for i in reversed(range(len(sentences))):
        if _is_bare(sentences, i):
            end = i
        elif not _NOTHING.fullmatch(sentences[i]):
            break
    return "".join(sentences[:end])


def _is_bare(sentences: Sequence[str], i: int) -> bool:
    before = sentences[i - 1] if i else ""
    is_decimal = before[-1:] == "." and before[-2:-1].isdigit()  # a "sentence" that is half of 0.1
    return not is_decimal and bool(_BARE.fullmatch(_folded(sentences[i])))


def _is_verdict(sentence: str) -> bool:
    return bool(_NAMES_ONE.search(sentence) and _PREFERS.search(sentence))
