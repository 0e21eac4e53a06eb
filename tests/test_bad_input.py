"""Bad input, kind by kind, and what is said of it: `docs/bad_input.md` is made here.

LRT_WRITE_DOCS=1 python -m pytest tests/test_bad_input.py
"""

import os
import re
from pathlib import Path

import jax
import pytest

import tests.bad_input  # noqa: F401 (registers the kinds)
from lrt_jax.parallel.mesh import make_mesh
from lrt_jax.serving.limits import Refused
from lrt_jax.training import setup
from tests.bad_input.registry import CASES, Case

PAGE = Path(__file__).parents[1] / "docs" / "bad_input.md"
ERRORS = (ValueError, TypeError, OSError, KeyError, FloatingPointError, Refused)
HALF_WRITTEN = r"^\.|tmp|part-"  # names of what is not yet whole


def told(case: Case, folder: Path) -> str:
    """The message, with nothing of this machine in it."""
    with pytest.raises(ERRORS) as caught:
        case(folder)
    notes = getattr(caught.value, "__notes__", [])
    text = " ".join([str(caught.value), *notes]).replace(str(folder), "DIR")
    return re.sub(r"\s+", " ", text).strip()


def half_written(folder: Path) -> list[Path]:
    """But for what a build that is begun again goes on with, whole files all of them."""
    left = (path for path in folder.rglob("*") if re.search(HALF_WRITTEN, path.name))
    return [path for path in left if ".out.building" not in path.relative_to(folder).parts]


def test_every_kind_is_told_as_the_page_says(tmp_path, monkeypatch):
    monkeypatch.setattr(setup, "make_mesh", lambda *_: make_mesh(devices=jax.devices()[:2]))
    lines = [HEAD]
    for section, cases in CASES.items():
        lines += [f"\n## {section}\n", "| what is wrong | what is said |", "|---|---|"]
        for number, (title, case) in enumerate(cases.items()):
            folder = tmp_path / f"{section}-{number}".replace(" ", "-")
            folder.mkdir()
            lines.append(f"| {title.strip()} | {told(case, folder).replace('|', chr(92) + '|')} |")
            left = [path.name for path in half_written(folder)]
            assert not left, f"{title} leaves {left}"
    page = "\n".join(lines) + "\n"
    if os.environ.get("LRT_WRITE_DOCS"):
        PAGE.write_text(page)
    assert PAGE.read_text() == page
    assert sum(map(len, CASES.values())) >= 40


HEAD = """# What is said of bad input

Made by `tests/test_bad_input.py`, which meets every kind here and checks the message: file, record
or field, and remedy. `DIR` is the folder of the case. Nothing here leaves a half-written file."""
