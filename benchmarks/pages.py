"""Blocks of pages that a command makes: what stands between two comments, and nothing else.

<!-- made by learning: means -->
| mean over seeds | ...
<!-- end -->
"""

import re
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = ("README.md", "launch/README.md", "docs/*.md")
BEGIN = re.compile(r"<!-- made by (\w+): (\w+) -->")
END = "<!-- end -->"

Block = tuple[str, str]  # what makes it, and its own name


def begin(block: Block) -> str:
    """The comment before a block."""
    return f"<!-- made by {block[0]}: {block[1]} -->"


def read_pages() -> dict[str, str]:
    """Texts of all pages that may have blocks, by path in the checkout."""
    files = sorted(file for pattern in PAGES for file in ROOT.glob(pattern))
    return {file.relative_to(ROOT).as_posix(): file.read_text(encoding="utf-8") for file in files}


def blocks(page: str, text: str) -> dict[Block, str]:
    """What the blocks of a page hold.

    Raises:
      ValueError: a block has no begin or no end, or is there twice.
    """
    return {block: held for block, held in _pieces(page, text) if block}


def filled(page: str, text: str, made: Mapping[Block, str]) -> str:
    """A page's text with other contents in some of its blocks.

    Args:
      page: its path, for errors.
      text: as it is.
      made: new contents by block.

    Raises:
      ValueError: a block is not on the page, or as in `blocks`.
    """
    pieces = _pieces(page, text)
    there = {block for block, _ in pieces if block}
    for block in made.keys() - there:
        where = f"put that comment, and {END} behind it, where it belongs"
        raise ValueError(f"{page}: there is no {begin(block)}; {where}")
    return "".join(made[b].rstrip("\n") + "\n" if b in made else held for b, held in pieces)


def _pieces(page: str, text: str) -> list[tuple[Block | None, str]]:
    """A page cut into what people wrote (None) and blocks; together they are its text."""
    pieces: list[tuple[Block | None, str]] = [(None, "")]
    for number, line in enumerate(text.splitlines(keepends=True), start=1):
        where, comment, (opened, held) = f"{page}:{number}", line.strip(), pieces[-1]
        if comment.startswith("<!-- made by"):
            match = BEGIN.fullmatch(comment)
            if not match:
                raise ValueError(f"{where}: {comment}: write {begin(('PART', 'BLOCK'))}")
            block = match.groups()
            if opened:
                raise ValueError(f"{where}: {comment} begins before {END} of {begin(opened)}")
            if block in dict(pieces):
                raise ValueError(f"{where}: {comment} is there already; remove one of the two")
            pieces[-1] = (None, held + line)
            pieces.append((block, ""))
        elif comment == END:
            if not opened:
                raise ValueError(f"{where}: {END} without a begin; remove it, or say what it ends")
            pieces.append((None, line))
        else:
            pieces[-1] = (opened, held + line)
    if opened := pieces[-1][0]:
        raise ValueError(f"{page}: {begin(opened)} has no end; write {END} behind the block")
    return pieces
