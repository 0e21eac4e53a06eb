"""Captions as they are compared."""

import re
import unicodedata


def normalise(caption: str) -> str:
    """A caption's words, for comparing: without case, punctuation, compatibility forms."""
    text = unicodedata.normalize("NFKC", caption).casefold()
    return " ".join(re.findall(r"\w+", text)) or text.strip()
