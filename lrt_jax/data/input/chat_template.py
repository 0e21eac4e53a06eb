"""Chat templates are programs that come with a model: what one may do before it counts as broken.

They run in a sandbox of transformers', out of reach of files and of Python's insides, but with no
bound on time or memory.
"""

import contextlib
import itertools
import sys
from collections.abc import Iterator, Mapping
from types import FrameType

import jinja2

STEPS = 1_000_000  # lines that may run to write one conversation; some hundreds do
LARGEST = 10**6  # whole number in a template's text; the strings and lists of larger ones are huge
_MULTIPLY = ("*", "**")  # of which one operation may take all memory, or never end


def check_template(template: str | Mapping[str, str]) -> None:
    """Refuses what can take all time or memory in a single step, where nothing can stop it.

    Args:
      template: of a tokenizer: one, or several by name.

    Raises:
      ValueError: it multiplies, or has very large numbers.
      jinja2.TemplateSyntaxError: it is no template.
    """
    texts = [template] if isinstance(template, str) else template.values()
    for line, kind, text in itertools.chain.from_iterable(map(jinja2.Environment().lex, texts)):
        if kind == "operator" and text in _MULTIPLY:
            raise ValueError(
                f"line {line} of the chat template multiplies; no conversation needs it"
            )
        if kind in ("integer", "float") and float(text.replace("_", "")) > LARGEST:
            raise ValueError(f"line {line} of the chat template has the number {text:.20}")


@contextlib.contextmanager
def bounded() -> Iterator[None]:
    """Ends a chat template that this thread runs and that does not end by itself.

    Raises:
      ValueError: it has taken more than `STEPS` steps.
    """
    steps = 0

    def count(frame: FrameType, event: str, _):
        nonlocal steps
        if frame.f_code.co_filename != "<template>":  # as jinja calls what it has compiled
            return None
        steps += 1
        if steps > STEPS:
            raise ValueError(f"the chat template has taken {STEPS:,} steps and does not end")
        return count

    before = sys.gettrace()
    sys.settrace(count)
    try:
        yield
    finally:
        sys.settrace(before)
