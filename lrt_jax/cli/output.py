"""Standard output that a closed pipe or terminal does not end."""

import logging
import os
import sys
from typing import TextIO

from lrt_jax.data.plain_text import shown
from lrt_jax.parallel import processes


class LastingOutput:
    """A text stream that goes to nowhere once it cannot be written to.

    That is a pipe whose reader has ended (`| head`), a terminal that was closed, or a file on a
    full disk. Characters that the stream's encoding lacks are written as escapes.

    Args:
      stream: to write to; it has a file descriptor.
      name: of the stream, for people.
      other: name in `sys` of the stream on which it is said, once, that this one is lost.
    """

    def __init__(self, stream: TextIO, name: str, other: str):
        stream.reconfigure(errors="backslashreplace")
        self._stream, self._name, self._other = stream, name, other

    def __getattr__(self, name: str):
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Writes, or loses, a text."""
        try:
            self._stream.write(text)
        except OSError as error:
            self._lost(error)
        return len(text)

    def flush(self) -> None:
        """Writes, or loses, what is buffered."""
        try:
            self._stream.flush()
        except OSError as error:
            self._lost(error)

    def _lost(self, error: OSError) -> None:
        if isinstance(error, BlockingIOError):  # a reader that is slow may read on
            return
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._stream.fileno())  # also for what libraries write themselves
        os.close(nowhere)
        print(
            f"note: {self._name} is lost ({error}); the command goes on, and leaves its files",
            file=getattr(sys, self._other),
            flush=True,
        )


def outlive_terminal() -> None:
    """Makes `sys.stdout` and `sys.stderr` streams that cannot end the process."""
    for name, title, other in (
        ("stdout", "standard output", "stderr"),
        ("stderr", "standard error", "stdout"),
    ):
        # One that was closed before the start, as by `>&-`, is None.
        stream = getattr(sys, name) or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
        setattr(sys, name, LastingOutput(stream, title, other))


def log(line: str) -> None:
    """Prints a line at once, if this is the first process; what others wrote moves no cursor."""
    if processes.is_first():
        print(shown(line), flush=True)


class LogHandler(logging.Handler):
    """Prints log records as `log` prints lines."""

    def format(self, record: logging.LogRecord) -> str:
        """The line of a record: its message, which says of a warning that it is one."""
        line = super().format(record)
        return f"warning: {line}" if record.levelno >= logging.WARNING else line

    def emit(self, record: logging.LogRecord) -> None:
        """Prints a record."""
        log(self.format(record))


def show_log() -> None:
    """Shows what the package logs on standard output alone; absl shows other logs elsewhere."""
    logger, handler = logging.getLogger("lrt_jax"), LogHandler()
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
