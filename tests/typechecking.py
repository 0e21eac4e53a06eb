"""Whether values are of the types and shapes that the code declares; checked once this is imported.

To be imported before the modules that it names, since it changes how they are imported.
"""

import contextlib
import functools
import sys
from collections.abc import Callable, Iterator
from types import FrameType

import jaxtyping
from beartype import BeartypeConf, beartype

CHECKED = ["lrt_jax.models", "lrt_jax.rl", "lrt_jax.algorithms"]
# Whole numbers may stand where `float` is declared, as type checkers of Python have it.
CONF = BeartypeConf(is_pep484_tower=True)
BETWEEN = ("jaxtyping.", "beartype.", __name__)  # modules that stand between a call and its check


def checker(function: Callable) -> Callable:
    """The function, whose arguments and results are checked.

    Pytrees are checked where code builds them. JAX builds them too, of whatever is mapped over
    their leaves, be it of other shapes or no array at all.
    """
    checked = beartype(function, conf=CONF)
    if function.__name__ != "__init__":
        return checked

    @functools.wraps(function)
    def unless_unflattened(*args, **kwargs):
        by_jax = _caller(sys._getframe()).f_globals["__name__"].startswith("jax.")
        return (function if by_jax else checked)(*args, **kwargs)

    return unless_unflattened


def _caller(frame: FrameType) -> FrameType:
    """The frame that called what is checked."""
    while frame.f_globals["__name__"].startswith(BETWEEN):
        frame = frame.f_back
    return frame


@contextlib.contextmanager
def unchecked() -> Iterator[None]:
    """Nothing is checked inside of it."""
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)


jaxtyping.install_import_hook(CHECKED, f"{__name__}.{checker.__name__}")
