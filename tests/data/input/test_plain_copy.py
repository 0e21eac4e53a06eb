"""The copy of a text in plain signs, and the way back to the text."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lrt_jax.data.input.plain_copy import plain_copy


@pytest.mark.parametrize(
    "text, plain",
    [
        ("An Answer: 1.", "an answer: 1."),
        ("＜ＡＮＳＷＥＲ＞：１", "<answer>:1"),
        ("〈《【‹⟨❮a〉》】›⟩❯", "<<<<<<a>>>>>>"),
        ("𝟏 ① ❷ ² Ⅱ ⑴ ㊀ १ １２", "1 1 2 2 2 1 1 1 12"),
        ("½ ⅗ ③ ٣", "1/2 3/5 3 ٣"),
        ("a → b ⇒ c – d — e − f", "a > b > c - d - e - f"),
        ("caf\u00e9 cafe\u0301 İ", "cafe cafe i"),
        (
            "zero\u200b\u200c\u200d\ufeff\u2060wi\u00addth\x00\ue0001\ufe0f\u20e3",
            "zerowidth\ue0001",
        ),
        ("a \t\u3000\u00a0 b", "a b"),
        ("a \u200b b  \r\n c\u2028\u2028d", "a b\nc\nd"),
        ("  \n", "\n"),
        ("第一张图，好。", "第一张图,好。"),
        ("", ""),
    ],
)
def test_a_text_in_plain_signs(text, plain):
    assert plain_copy(text).text == plain


@pytest.mark.parametrize(
    "text, pattern, found",
    [
        ("An Answer: 1.", "answer", "Answer"),
        ("so <\u200bａｎ\u00adｓwer > 1", "<answer >", "<\u200bａｎ\u00adｓwer >"),
        ("a \n\t b", "a\nb", "a \n\t b"),
        ("a ㏂", r"a\.", "㏂"),  # a character that is several signs is taken as a whole
        ("a ㏂ b", r"m\.", "㏂"),
        ("\ufeff1\ufeff", "1", "1"),
    ],
)
def test_what_is_found_in_the_copy_is_found_in_the_text(text, pattern, found):
    copy = plain_copy(text)
    start, end = copy.span(re.search(pattern, copy.text))
    assert text[start:end] == found


@given(st.text() | st.text("aA  \n\t\u200b１①é㏂—"))
@settings(max_examples=300, deadline=None)
def test_every_sign_has_its_place_and_a_copy_is_its_own_copy(text):
    copy = plain_copy(text)
    assert len(copy.starts) == len(copy.text)
    assert list(copy.starts) == sorted(copy.starts)
    for sign, start in zip(copy.text, copy.starts, strict=True):
        assert sign in plain_copy(text[start]).text or (sign == "\n" and text[start].isspace())
    assert not re.search(r"[A-Z\u200b]|\n\n", copy.text)
