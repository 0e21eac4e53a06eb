"""What the package logs, for tests."""

import contextlib
import logging
from collections.abc import Iterator

from lrt_jax.cli.output import LogHandler


class _Lines(LogHandler):
    def __init__(self):
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))


@contextlib.contextmanager
def logged() -> Iterator[list[str]]:
    """What is logged meanwhile, as the lines that a command would show; the list grows."""
    logger, handler = logging.getLogger("lrt_jax"), _Lines()
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield handler.lines
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
