"""No file depends on the language that a machine is set to."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted([*(ROOT / "lrt_jax").rglob("*.py"), ROOT / "setup.py"])


def without_encoding(code: str) -> Iterator[int]:
    """Lines that read or write text in whatever encoding the machine has."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Call) and reads_or_writes_text(node):
            named = any(keyword.arg == "encoding" for keyword in node.keywords)
            if not named:
                yield node.lineno


def reads_or_writes_text(call: ast.Call) -> bool:
    name = getattr(call.func, "attr", getattr(call.func, "id", ""))
    given = [*call.args, *(keyword.value for keyword in call.keywords)]
    words = [x.value for x in given if isinstance(x, ast.Constant) and isinstance(x.value, str)]
    modes = [word for word in words if set(word) <= set("rwaxbt+")]
    is_text = all("b" not in mode for mode in modes) and (bool(modes) or not given)
    return name in ("read_text", "write_text") or (name == "open" and is_text)


@pytest.mark.parametrize(
    "code", ["p.open()", "p.open('a')", "open(x, 'w')", "p.read_text()", "p.write_text('b')"]
)
def test_a_line_without_encoding_is_found(code):
    assert list(without_encoding(code)) == [1]
    named = code.replace("()", "(encoding='utf-8')").replace("')", "', encoding='utf-8')")
    assert "encoding" in named and not list(without_encoding(named))


def test_texts_are_read_and_written_in_utf8_whatever_the_locale():
    assert len(FILES) > 50
    found = [f"{x.name}:{line}" for x in FILES for line in without_encoding(x.read_text("utf-8"))]
    assert not found
