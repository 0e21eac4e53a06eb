"""Text of others, as it may be shown: captions and file names can hold anything."""

import html
import re
import unicodedata

OUR_OWN = "\n\t"  # which our lines are laid out with
# What moves a terminal's cursor, changes its title or turns the direction of reading.
UNSHOWN = ("Cc", "Cf", "Cs", "Co", "Zl", "Zp")
JOINERS = "\u200c\u200d"  # of Persian, of Indic scripts and of emoji
QUOTE = "'"
MARKUP = re.compile(r"([\\`|]|\](?=\())")


def shown(text: str) -> str:
    """A text for a terminal or a log: control characters are written out, line breaks stay."""
    return text if text.isprintable() else "".join(map(_shown, text))


def _shown(character: str) -> str:
    if character in OUR_OWN + JOINERS or unicodedata.category(character) not in UNSHOWN:
        return character
    return character.encode("unicode_escape").decode()


def in_markdown(text: str) -> str:
    """A text inside a line of Markdown: neither links nor pictures, nor cells, nor HTML."""
    line = shown(" ".join(text.split()))
    return MARKUP.sub(r"\\\1", html.escape(line, quote=False))


def as_code(text: str) -> str:
    """A text as code inside a line of Markdown, which nothing in it can end."""
    return f"`{shown(' '.join(text.split())).replace('`', QUOTE)}`"
