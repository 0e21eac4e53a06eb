"""The kinds of bad input by section of the page."""

from collections.abc import Callable
from pathlib import Path

Case = Callable[[Path], object]
CASES: dict[str, dict[str, Case]] = {}


def kind(section: str, title: str):
    """Registers a case: a function of a folder that meets bad input."""

    def register(case: Case) -> Case:
        CASES.setdefault(section, {})[title] = case
        return case

    return register
