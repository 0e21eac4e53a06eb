"""Chat templates that would take all time or memory are refused, and others are left alone."""

import sys

import pytest

from lrt_jax import assets
from lrt_jax.data.input.chat_template import STEPS, bounded, check_template
from lrt_jax.data.input.prompts import render
from lrt_jax.data.input.tokenizer import load_tokenizer

DEEP = "{% for a in 'abcdefghij' %}" * 8 + "{% endfor %}" * 8


@pytest.fixture
def tokenizer():
    return load_tokenizer(assets.tiny_model())


@pytest.mark.parametrize(
    "template",
    [
        DEEP,
        "{% for a in range(9999) %}{% for b in range(9999) %}{{ b }}{% endfor %}{% endfor %}",
        "{% macro f(n) %}{% if n %}{{ f(n - 1) ~ f(n - 1) }}{% endif %}{% endmacro %}{{ f(40) }}",
    ],
)
def test_a_template_that_does_not_end(tokenizer, template):
    tokenizer.chat_template = template
    before = sys.gettrace()
    with pytest.raises(ValueError, match=f"has taken {STEPS:,} steps and does not end"):
        render(tokenizer, "a cat", "reason")
    assert sys.gettrace() is before


@pytest.mark.parametrize(
    ("template", "told"),
    [
        ("\n{{ 'a' * 10000 }}", "line 2 of the chat template multiplies"),
        ("{{ 2 ** 2 }}", "line 1 of the chat template multiplies"),
        ("{{ 'a'.ljust(9_999_999_999) }}", "line 1 of the chat template has the number 9_999_999"),
    ],
)
def test_what_takes_everything_in_one_step(template, told):
    with pytest.raises(ValueError, match=told):
        check_template(template)
    with pytest.raises(ValueError, match=told):
        check_template({"default": "{{ 1 }}", "tools": template})


def test_text_may_hold_anything():
    check_template("2 * 3 ** 99999999999 {{ 'a * b' }}{# 9 ** 9 #}{{ 1 + 999999 }}")


def test_other_code_is_not_counted():
    with bounded():
        assert sum(1 for _ in range(STEPS)) == STEPS
