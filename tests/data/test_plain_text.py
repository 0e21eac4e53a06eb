"""Captions and file names of others move no cursor, and are no markup where they are shown."""

import dataclasses

import pytest

from lrt_jax.cli import commands
from lrt_jax.data.plain_text import in_markdown, shown
from lrt_jax.data.preparation.prepare import prepare
from lrt_jax.data.preparation.report_page import page
from tests.data.own_folder import own_folder
from tests.data.preparation.test_near_duplicates import landscape

TITLE = "\x1b]0;mine\x07"  # of a terminal's window
PICTURE = "<img src=x onerror=alert(1)>"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a cat, sitting", "a cat, sitting"),
        ("zwei Zeilen\n\tmit Rand", "zwei Zeilen\n\tmit Rand"),
        ("\x1b[2Ja", "\\x1b[2Ja"),
        ("a\rb\x9bc\u202ed", "a\\rb\\x9bc\\u202ed"),
        ("half \udc80", "half \\udc80"),
        ("猫 на коврике 👩\u200d🎨", "猫 на коврике 👩\u200d🎨"),
    ],
)
def test_control_characters_are_written_out_and_words_are_not(text, expected):
    assert shown(text) == expected


def test_markup_is_text():
    assert in_markdown("a | b\nc") == r"a \| b c"
    assert in_markdown("![x](http://a) `b`") == r"![x\](http://a) \`b\`"
    assert in_markdown("field a[3]") == "field a[3]"
    assert in_markdown("<img> & co") == "&lt;img&gt; &amp; co"


def test_a_report_shows_captions_and_names_as_text(tmp_path, capsys):
    """A long caption, a bad record's line and a note, each with what must not be obeyed."""
    caption = f"{TITLE}{PICTURE} {'a long story ' * 200}"
    source = own_folder(tmp_path / "in", [(caption, landscape(0), landscape(1), {})])
    report = prepare("folder", source, tmp_path / "out")
    bad = {"bad_records": (f"{TITLE}: {PICTURE}",), "notes": (f"{TITLE} {PICTURE}",)}
    names = {"dropped_images": {f"{PICTURE}{TITLE}.png": "empty file"}}
    text = page(dataclasses.replace(report, **bad, **names))
    assert text.count("&lt;img") == 4 and text.count("\\\\x1b") == 4
    assert "\x1b" not in text and "<img" not in text
    written = (tmp_path / "out" / "build_report.md").read_text()
    assert "&lt;img" in written and "\x1b" not in written
    commands.log(f"note: {caption}")
    assert "\x1b" not in capsys.readouterr().out


def test_errors_show_names_as_text(monkeypatch):
    def fails(_):
        raise ValueError(f"{TITLE}.png: no image")

    with pytest.raises(SystemExit, match=r"error: \\x1b\]0;mine\\x07.png: no image"):
        commands._told_in_a_line(fails)
