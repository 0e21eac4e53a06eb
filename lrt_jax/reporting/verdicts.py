"""Comparisons and rankings, as a person reads them and as JSON."""

import dataclasses
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

from lrt_jax.inference.results import Comparison, Ranking, Reading

WIDTH = 96
LISTENER = {True: "contradicts it", False: "agrees", None: "is undecided"}


def comparison_page(result: Comparison, caption: str, images: Sequence[str]) -> str:
    """A comparison for people: probabilities, then every reasoning.

    Args:
      result: the comparison.
      caption: what both images are to show.
      images: what to call the two.
    """
    chances = result.probability, 1.0 - result.probability
    lines = [caption, ""]
    lines += [f"{p:8.4f}  {name}" for p, name in zip(chances, images, strict=True)]
    lines += ["", *_facts(result)]
    for order, readings in zip(("as given", "swapped"), result.readings, strict=True):
        for reading in readings:
            lines += ["", *_reading(reading, order)]
    return "\n".join(lines)


def ranking_page(result: Ranking, caption: str, images: Sequence[str]) -> str:
    """A ranking for people: images from the best to the worst, and who was preferred to whom.

    Args:
      result: the ranking.
      caption: what all images are to show.
      images: what to call them, as they were given.
    """
    places, width = range(1, len(images) + 1), max(map(len, ("image", *images)))
    header = f"rank   score  {'image':{width}}"
    lines = [caption, "", f"{header}  probability to beat rank"]
    lines.append(f"{'':{len(header)}}{''.join(f'{place:7}' for place in places)}")
    for place, i in zip(places, result.order, strict=True):
        cells = [_cell(result.probabilities[i][j]) for j in result.order]
        lines.append(f"{place:4} {result.scores[i]:7.4f}  {images[i]:{width}}{''.join(cells)}")
    lines += ["", f"{result.comparisons} comparisons, each in both orders"]
    for group in result.cycles:
        lines.append(f"in a circle, so that no order fits: {', '.join(images[i] for i in group)}")
    for (i, j), verdict in result.verdicts.items():
        if verdict.contradiction:
            lines.append(f"the listener contradicts: {images[i]} and {images[j]}")
    return "\n".join(lines)


def comparison_json(result: Comparison) -> dict[str, Any]:
    """All that a comparison says, as JSON has it."""
    return dataclasses.asdict(result)


def ranking_json(result: Ranking) -> dict[str, Any]:
    """All that a ranking says, as JSON has it; `verdicts` is a list, each with its `images`."""
    fields = {x.name: getattr(result, x.name) for x in dataclasses.fields(result)}
    verdicts = [{"images": pair, **comparison_json(x)} for pair, x in result.verdicts.items()]
    return {**fields, "verdicts": verdicts}


def _facts(result: Comparison) -> Iterator[str]:
    """What else is known of a comparison, a line for each."""
    spread = (
        "" if result.standard_error is None else f", standard error {result.standard_error:.4f}"
    )
    yield f"agreement of the two orders {result.agreement:.2f}{spread}"
    if result.listener_probability is not None:
        told = LISTENER[result.contradiction]
        yield f"listener: first preferred with {result.listener_probability:.4f}, it {told}"
    if result.forced:
        yield f"{result.forced} of the reasonings ended without an answer; one was appended"


def _reading(reading: Reading, order: str) -> list[str]:
    """A reasoning, indented below what came of it; its "first" is the image shown first."""
    preferred = "first" if reading.prefers_first else "second"
    title = f"{order}: prefers the {preferred} given, {reading.probability:.4f} for the first"
    if reading.contradiction:
        title += f"; CONTRADICTION: the listener has {reading.listener_probability:.4f}"
    title += "; answer appended" * reading.forced
    indent = {"initial_indent": "    ", "subsequent_indent": "    "}
    return [title, *textwrap.wrap(reading.trace, WIDTH, **indent)]


def _cell(probability: float | None) -> str:
    return f"{'-':>7}" if probability is None else f"{probability:7.2f}"
