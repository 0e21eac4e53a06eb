"""Patterns of the forms in which models write answers, for the `plain_copy` of what they wrote.

In it letters are small, and there is one blank where there were many. What repeats in a pattern is
bounded or gives nothing back, so that searches take linear time whatever the text.
"""

import regex  # `re` of Python 3.11.2 misreads possessive quantifiers


def _any(words: str) -> str:
    """Any of some English words, as a whole."""
    return rf"(?:{'|'.join(words.split())})(?![a-z])"


def _braced(depth: int) -> str:
    """What stands in braces, with others in them; all of them may be left open."""
    inner = rf"|{_braced(depth - 1)}" if depth else ""
    return rf"\{{(?:[^{{}}\n]{inner}){{0,80}}+\}}?"


# ---------------------------------------------------------------------------- tags

OPENING = regex.compile(r"\s?<\s?think\s?>")
# Tags in any spelling a reader would take for one, opened or closed.
ANSWER_TAG = regex.compile(
    r"""
    <\s?/\s?think(?:ing)?\s?>
    | <[\s|/]{0,4} (?:
        (?: (?:final|最终)?[\s_-]? (?:answer|choice|verdict|答案) | ans\b )
        | (?: best | better | chosen | conclusion | decision | final | output | pick | preference
          | preferred | response | result | selection | vote | winner
          | (?:最终)?(?:回答|结果|结论|输出|选择) )
          (?:[\s_-](?:answer|choice|image|number|option|verdict))? [\s|]{0,2} >
      )
    """,
    regex.VERBOSE,
)
QUOTATION = regex.compile(r"<\s?(?:/\s?)?r(?=easoning)")

# ---------------------------------------------------------------------------- names of images

_IMAGE = rf"(?:{_any('image img picture pic photo option candidate number the')}|图片|图像|图|第)"
_NOUN = rf"(?:\s?(?:{_any('image picture photo option choice one')}|[张幅号](?:图片|图像|图)?))?"
_ORDER = rf"(?:{_any('first second former latter')}|前者|后者)"
_WORD = rf"(?:{_any('one two')}|{_ORDER}|[一二])"
_SIDE = rf"(?:{_any('left right [ab]')}|[左右])"
_BOTH = rf"(?:/|、|or|and|vs\.?|或者?|和|与|还是)\s?(?:{_IMAGE}\s?)?[12一二]|,\s?[12](?!\s?[a-z])"
_DIGIT = rf"""(?:
    (?: 0{{0,2}}[12](?:\.0{{1,2}})?+(?:st|nd)?+ | (?<=[第图片像])[一二] )
    (?! \d | [.,]\d | \s?(?:%|/\s?\d|{_BOTH}) | \s(?:out\s)?of\b )
)"""

# ---------------------------------------------------------------------------- answers in a text

_MARK = r"(?:[^\w.!?,;。、]|_)"
_FILLERS = _any("is was be would should must has to goes i choose pick not so thus hence here")
_ADVERBS = _any("therefore [a-z]{2,10}ly")
# What may stand between a word for an answer and the number: macros, tags, entities, the choice
# that was to be made, words, and marks.
_GAP = rf"""(?:
    \\(?!f?boxed?|frame)[a-z]{{2,12}} | <[\s/]{{0,2}}[a-z]{{1,12}}> | &[a-z]{{2,5}};
    | [(\[{{] \s?1\s?(?:or|/|,|\||或)\s?2\s? [)\]}}]
    | {_FILLERS} | {_ADVERBS} | [是为应该] | {_IMAGE} | {_MARK}
){{0,24}}+"""
# What may follow a number that stands for an image; in "one dog" it does not.
_REASON = _any("because since as for due given with it [a-z]{2,10}ly")
_END = rf"""(?= {_MARK}{{0,6}}? (?:
    $ | \n | [.!?;:(。](?!\d) | -[ ] | ,?\s?(?:{_REASON}|因为|由于)
))"""
_JOINS = rf"(?={_MARK}{{0,4}}(?:[:=>]|-[ ]))"
_IS = rf"(?={_MARK}{{0,4}}(?:[:=]|(?:is|was)\b|[是为]))"

# Words for an answer: always; where a number is joined to them; where they start a sentence too.
_ANSWER = r"(?:answer|答案|结论|选择?)"
_VERDICT = r"(?:choice|verdict|decision|winner|ans(?![a-z])|回答|优?胜出?者?|赢家)"
_EITHER = rf"(?:{_ANSWER}|{_VERDICT})"
_CHOSEN = _any("image picture photo option choice one")
_BETTER = (
    rf"(?:(?:best|better|chosen|correct|preferred|selected|winning)[ _]{_CHOSEN}"
    r"|更好的(?:图片|图像|图)?)"
)
_STARTS = r"(?:(?<!\w)(?<!\w[ ])|(?<=\bmy[ ])|(?<=\bthe[ ])|(?<=\bfinal[ _])|(?<=最终)|(?<=我的))"
_NOUNS = _any(
    "best better conclusion final judge?ment label output pick prediction preference preferred"
    " response result selected selection solution vote"
)
_OTHER = rf"(?:{_STARTS}(?:{_NOUNS}|{_BETTER}|答|判断|结果|输出|更好|最佳|推荐))"
_ASKED = r"(?:[ ](?!how|many)[a-z]{1,12}){1,4}"  # as in "answer to this question"

_BEING = rf"\s?(?:{_any('is as')}|would\sbe\b|[是为])"
_OF_WHOM = rf"(?:\s?(?:{_any('my our the final correct')}|我的|最终|正确|的)){{0,3}}"
_WHAT = rf"\s?(?:{_any('answer choice pick verdict')}|答案)"

ANSWER = regex.compile(
    rf"""
    # Most of a text starts none of what follows.
    (?: (?<![a-z])(?=[a-z12\[]) | (?=[\\一二优前后回推更最判答结胜赢输选])
      | (?=answer|boxed|choice|decision|verdict|winner) )
    (?:
      \\?boxed\s?(?: {_braced(4)} | [12](?!\d) )
      | \\?f(?:rame)?box\s?{_braced(4)}
      | \[(?<![\w(,=\[]\[)(?<![(,=][ ]\[)\[\s?[12]\s?\]\](?![\]),])
      | (?: {_ANSWER} | {_VERDICT}{_IS} ) {_GAP} {_DIGIT}
      | 选择?\s?(?:前者|后者|[ab](?![a-z]))
      | {_EITHER} {_IS} {_GAP} (?: {_WORD} {_NOUN} {_END} | {_ORDER}[ ]{_CHOSEN} )
      | {_EITHER} {_JOINS} {_GAP} {_SIDE} {_NOUN} {_END}
      | (?: {_EITHER} | {_OTHER} ) {_JOINS} {_GAP} (?:{_DIGIT}|{_WORD}) {_NOUN} {_END}
      | {_BETTER}{_IS} {_GAP} {_DIGIT} {_END}
      | {_EITHER} {_ASKED} {_IS} {_GAP} (?:{_DIGIT}|{_WORD}) {_NOUN} {_END}
      | (?<![\d.]) (?:[12]|{_WORD}) {_NOUN} {_BEING} {_OF_WHOM} {_WHAT} {_END}
    )
    """,
    regex.VERBOSE,
)

# ---------------------------------------------------------------------------- sentences

SENTENCE = regex.compile(r"[^.!?。！？\n]*[.!?。！？\n]+\s*|[^.!?。！？\n]+")  # of the text itself
NOTHING = regex.compile(r"[\W_]*")

_AROUND = rf"(?:\\[a-z]{{2,12}}|<[\s/]{{0,2}}(?!{_WORD})[a-z]{{1,12}}>|[\W_])*+"
_SO = _any("so thus ergo therefore hence finally overall ultimately clearly accordingly okay")
_IN_SHORT = _any(r"in\s(?:conclusion|short|sum|summary|the\send) to\sconclude consequently")
_MINE = _any("answer choice conclusion decision judge?ment pick preference verdict vote")
_THUS = rf"""(?:
    {_SO} | {_IN_SHORT} | (?:(?:my|the|final)\s){{0,3}}{_MINE}
    | 因此 | 所以 | 故 | 综上(?:所述)? | 总之 | 最后 | 最终 | 即
)"""
_IT_IS = _any("it s this that is must has to be would")
_AFTER = _any(r"it\sis then [a-z]{2,10}ly")
# No more than the name of an image, or that after words with which one concludes.
BARE = regex.compile(
    rf"""
    {_AROUND} (?: (?:{_THUS} {_AROUND})++ (?:{_IT_IS} {_AROUND}){{0,4}} )?
    (?:{_IMAGE} {_AROUND}){{0,3}} (?: 0{{0,2}}[12](?:st|nd)? | {_WORD} )
    {_AROUND} {_NOUN} (?:{_AROUND}{_AFTER})? {_AROUND}
    """,
    regex.VERBOSE,
)
ORDER = regex.compile(rf"[\W_]*{_ORDER}[\W_]*")  # opens a list as often as it is an answer
ASKS_COUNT = regex.compile(r"(?:\bhow (?:many|much)\b|几|多少)[^?]{0,200}\?")

NAMES_ONE = regex.compile(
    r"\b(?:image|picture|option|number)\s?(?:[12]|one|two)\b|\b(?:first|second)\b|\banswer\b"
    r"|\b(?:choose|pick|prefer|favou?r|with)\s[12]\b|^\W*[12]\s(?:is|wins)\b"
    r"|第[一二]|(?:图片|图像|图)\s?[12一二]|答案|\b[12]\s?>"
)
PREFERS = regex.compile(
    r"\b(?:better|best|prefer\w*|wins?|winner|superior|choose|chosen|pick|favou?r\w*|answer)\b"
    r"|\bgo(?:ing)?\swith\b|[更最][好佳优]|更(?:符|贴)合|优于|胜|选|喜欢|偏好|答案"
    r"|\b[12]\s?>\s?(?:(?:image|picture)\s)?[12]\b"
)
