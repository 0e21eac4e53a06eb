"""What every group must hold to, whichever source it is of."""

import math
import re
from collections.abc import Iterator

from lrt_jax.data.schema import Group
from lrt_jax.data.sources.errors import SourceError
from lrt_jax.data.sources.limits import NAME_CHARACTERS

RESERVED = "all"  # means every split together
SPLIT_REMEDY = f"use letters, digits and _, and not {RESERVED!r}"
MOST_VOTES = 2**24  # whole numbers up to it are exact in single precision


def is_split_name(name: str) -> bool:
    """Whether a split may be called so."""
    return re.fullmatch(r"[A-Za-z]\w*", name) is not None and name.lower() != RESERVED


def is_unicode(text: str) -> bool:
    """Whether a text can be written: it holds no half of a character."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def check_group(group: Group, origin: str) -> Group:
    """The group itself.

    Args:
      group: that an adapter found.
      origin: name of its data set, for errors.

    Raises:
      SourceError: a split that cannot be, a name that is too long or no Unicode text, or votes
        or ranks beyond all bounds.
    """
    for field, problem in _problems(group):
        raise SourceError(f"{origin}: group {group.group_id[:100]!r}: field {field!r} {problem}")
    return group


def _problems(group: Group) -> Iterator[tuple[str, str]]:
    if group.split is not None and not is_split_name(group.split):
        yield "split", f"is {group.split!r}; {SPLIT_REMEDY}"
    texts = {"group_id": (group.group_id,), "generators": group.generators or ()}
    texts["images"] = tuple(map(str, group.images))
    for field, values in texts.items():
        for value in values:
            if len(value) > NAME_CHARACTERS:
                most = f"a name has at most {NAME_CHARACTERS:,}"
                yield field, f"has {len(value):,} characters; {most}"
            if not is_unicode(value):
                yield field, f"is {value!r}, no Unicode text; write it in UTF-8, or rename the file"
    if bad_ranks := [rank for rank in group.ranks or () if not 0 <= rank <= MOST_VOTES]:
        yield "ranks", f"has {bad_ranks[0]:g}; expected 1 for the best image and more for others"
    for first, second in group.weighted or ():
        both = (first, second)
        if not all(0 <= x <= MOST_VOTES for x in both) and not all(map(math.isnan, both)):
            yield "weighted", f"votes are {first:g} and {second:g}; expected 0 to {MOST_VOTES:,}"
    for *_, first, second in group.pairs:
        if not all(math.isfinite(x) and 0 <= x <= MOST_VOTES for x in (first, second)):
            yield "votes", f"are {first:g} and {second:g}; expected 0 to {MOST_VOTES:,}"
