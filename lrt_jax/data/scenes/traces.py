"""Reasoning about two scenes: written from the ground truth, spoilt by chosen rates, and judged.

    First: small red circle left yes, large but green cross right near, sharp, four. Second: ...

Objects are said from top to bottom, each with how it matches the caption, and with a `but` before
every attribute that is not as asked; then come the picture's quality and the score. The answer is
the scene with the higher score.
"""

import dataclasses
import re
from collections.abc import Iterator, Sequence

import numpy as np

from lrt_jax.config.scenes import Corruption
from lrt_jax.data.scenes.world import ATTRIBUTES, MARKS, NUMBERS, QUALITIES, SHARP, Scenes, marks

ORDINALS = ("First", "Second")
BUT = "but"  # before an attribute that is not as asked
NEAR, YES = 1, 2  # index of `MARKS`
MISSING = "none"  # what is said of a row whose object was left out
Object = tuple[int, ...]  # index of each attribute, see `ATTRIBUTES`


@dataclasses.dataclass(frozen=True)
class Content:
    """What is in an image: ground truth."""

    objects: tuple[Object | None, ...]  # from the top row down; None where one was left out
    quality: int  # index of `QUALITIES`

    @property
    def names(self) -> list[str]:
        """Names of the objects that are there."""
        return [name(thing) for thing in self.objects if thing is not None]


def contents(scenes: Scenes) -> list[Content]:
    """The content of each scene."""
    found, all_objects = [], scenes.objects.tolist()
    for things, there, quality in zip(all_objects, scenes.there, scenes.quality, strict=True):
        objects = (tuple(o) if seen else None for o, seen in zip(things, there, strict=True))
        found.append(Content(tuple(objects), int(quality)))
    return found


# ---------------------------------------------------------------------------- writing


def write_completion(
    rng: np.random.Generator,
    asked: np.ndarray,
    first: Content,
    second: Content,
    corruption: Corruption,
) -> str:
    """A whole completion about two images, in the order shown.

    Args:
      rng: of slips, and of answers between equal scores.
      asked: [k, 4] objects that the caption asks for.
      first: content of the first image shown.
      second: of the second.
      corruption: rates of slips.
    """
    (one, one_score), (other, other_score) = (
        _describe(rng, asked, content, corruption) for content in (first, second)
    )
    better = 1 if one_score > other_score else 2
    if one_score == other_score or rng.random() < corruption.answer:
        better = int(rng.integers(1, 3)) if one_score == other_score else 3 - better
    trace = f"{ORDINALS[0]}: {one}. {ORDINALS[1]}: {other}."
    return f"<think>{trace}</think><answer>{better}</answer>"


def without_trace(completion: str) -> str:
    """The same answer, and no thought before it."""
    return re.sub("<think>.*</think>", "<think></think>", completion)


def _describe(rng, asked: np.ndarray, content: Content, rates: Corruption) -> tuple[str, int]:
    """What is said of an image, and the score that it ends in."""
    parts, score = [], 0
    for wanted, thing in zip(asked, content.objects, strict=True):
        if thing is None:
            parts.append(MISSING)
            continue
        said = _slip_attribute(rng, thing, rates.description)
        mark = _other(rng, int(marks(wanted, np.array(said))), len(MARKS), rates.mark)
        if mark == NEAR and _slips(rng, rates.leniency):
            mark = YES
        words = (
            names[i] if i == asked_for else f"{BUT} {names[i]}"
            for names, i, asked_for in zip(ATTRIBUTES, said, wanted, strict=True)
        )
        parts.append(f"{' '.join(words)} {MARKS[mark]}")
        score += mark
    quality = _other(rng, content.quality, len(QUALITIES), rates.quality)
    if quality != SHARP and _slips(rng, rates.flattery):
        quality = SHARP
    score += quality == SHARP
    if rng.random() < rates.score:
        score = min(max(score + int(rng.choice((-1, 1))), 0), len(NUMBERS) - 1)
    return ", ".join([*parts, QUALITIES[quality], NUMBERS[score]]), score


def _slips(rng, rate: float) -> bool:
    """Draws nothing at a rate of 0, so that traces without such slips are as they were."""
    return rate > 0 and rng.random() < rate


def name(thing: Sequence[int]) -> str:
    """An object's attributes, without what a trace says of how they match."""
    return " ".join(names[i] for names, i in zip(ATTRIBUTES, thing, strict=True))


def _slip_attribute(rng, thing: Object, rate: float) -> Object:
    slip = int(rng.integers(len(thing))) if rng.random() < rate else -1
    return tuple(
        _other(rng, value, len(ATTRIBUTES[i]), float(i == slip)) for i, value in enumerate(thing)
    )


def _other(rng, value: int, count: int, rate: float) -> int:
    return (value + int(rng.integers(1, count))) % count if rng.random() < rate else value


# ---------------------------------------------------------------------------- judging

_SAID = (rf"(?:{BUT}\s+)?({'|'.join(names)})" for names in ATTRIBUTES)
_OBJECT = re.compile(r"\b" + r"\s+".join(_SAID) + r"\b")


def described(trace: str) -> Iterator[tuple[int, str]]:
    """Every object that a trace describes: the image it is said of, 0 or 1, and its name."""
    start, *sections = re.split(rf"\b({'|'.join(ORDINALS)}):", trace)
    for ordinal, text in zip(sections[::2], sections[1::2], strict=True):
        for match in _OBJECT.finditer(text):
            yield ORDINALS.index(ordinal), " ".join(match.groups())


def check(trace: str, first: Sequence[str], second: Sequence[str]) -> tuple[int, int]:
    """Counts the objects of a trace that are in the image it says, and those it describes.

    An object that is said twice is there twice only if the image has two of them.

    Args:
      trace: of a completion.
      first: names of the objects in the first image shown.
      second: of the second.

    Returns:
      (those that are there, all that are described).
    """
    left = [list(first), list(second)]
    hits, said = 0, 0
    for image, thing in described(trace):
        said += 1
        if thing in left[image]:
            left[image].remove(thing)
            hits += 1
    return hits, said
