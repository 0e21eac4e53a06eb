"""A normalised copy of a text in which patterns are matched, with a map back to the text.

In the copy full-width letters are plain ones, and characters of no width are left out, so that
patterns need not know such spellings of `<answer>`. The text itself stays as it is.
"""

import dataclasses
import functools
import re
import unicodedata
from collections.abc import Sequence

# But for large letters these are plain, and single blanks between them: they are copied as a whole.
_SIGNS = r"!-~\u3001\u3002\u4e00-\u9fff"
_RUN = re.compile(rf"[{_SIGNS}]+(?:[ \n][{_SIGNS}]+)*|.", re.DOTALL)
_NOT_PLAIN = re.compile(rf"[^ \n{_SIGNS}]|\s\s")

_ALIKE = str.maketrans("〈《【‹⟨❮〉》】›⟩❯⁄−", "<<<<<<>>>>>>/-")
_LINE_ENDS = "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"
_UNSEEN = ("Cc", "Cf", "Mn", "Me")  # categories: control, format, marks upon other characters
_FILLERS = "\u115f\u1160"  # letters that are not seen


@dataclasses.dataclass(frozen=True)
class PlainCopy:
    """A text in plain signs.

    Compatibility characters are taken apart (NFKD), letters are small, and what is not seen is left
    out, accents too. Numbers that mean 1 or 2 are these digits, dashes are `-`, arrows to the right
    are `>`, as are brackets like it. Of blanks in a row there is one, a line end if they hold one.
    """

    text: str  # the copy
    starts: Sequence[int]  # for each of its signs the index of its character in the text

    def span(self, match: re.Match) -> tuple[int, int]:
        """Start and end in the text of what was found in the copy, which is not empty."""
        start, end = match.span()
        return self.starts[start], self.starts[end - 1] + 1  # a character is taken as a whole


def plain_copy(text: str) -> PlainCopy:
    """A text in plain signs, made in linear time."""
    if not _NOT_PLAIN.search(text):
        return PlainCopy(text.lower(), range(len(text)))
    pieces, starts = [], []
    for run in _RUN.finditer(text):
        piece = run[0].lower() if len(run[0]) > 1 else _plain(run[0])
        if piece.isspace() and pieces and pieces[-1].isspace():
            pieces[-1] = min(pieces[-1], piece)  # a line end comes before a blank
        elif piece:
            pieces.append(piece)
            starts += range(*run.span()) if len(run[0]) > 1 else [run.start()] * len(piece)
    return PlainCopy("".join(pieces), starts)


@functools.lru_cache(maxsize=4096)
def _plain(character: str) -> str:
    """One character in plain signs, of which there may be none or several."""
    if character.isspace():
        return "\n" if character in _LINE_ENDS else " "
    category, name = unicodedata.category(character), unicodedata.name(character, "")
    if category[0] == "N" and (number := unicodedata.numeric(character, 0)) in (1, 2):
        return f"{number:.0f}"
    if category == "Pd":
        return "-"
    if "RIGHTWARDS" in name and "ARROW" in name:
        return ">"
    signs = unicodedata.normalize("NFKD", character).translate(_ALIKE).lower()
    return "".join(
        sign
        for sign in signs
        if unicodedata.category(sign) not in _UNSEEN and sign not in _FILLERS and not sign.isspace()
    )
