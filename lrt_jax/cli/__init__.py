"""What commands share. Importing it is the first thing that a command does."""

import os
import signal
import sys


def end_quietly() -> None:
    """Has Ctrl-C end the process with a line, until `commands.run` has handlers of its own."""
    if signal.getsignal(signal.SIGINT) == signal.default_int_handler:
        signal.signal(signal.SIGINT, _end)


def _end(number: int, frame: object) -> None:
    os.write(2, b"stopped by Ctrl-C; nothing had begun\n")
    os._exit(128 + number)


def _is_command() -> bool:
    """Whether this is the import of `python -m lrt_jax.NAME`, and not that of another program."""
    return any(argument.startswith("lrt_jax.") for argument in sys.orig_argv)


if _is_command():  # whose imports take seconds; other programs keep their own handlers
    end_quietly()

# transformers serves for tokenizers and configs alone here; that it finds no PyTorch is no news.
os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
