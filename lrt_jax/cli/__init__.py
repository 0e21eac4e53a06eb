"""What commands share. Importing it is the first thing that a command does."""

import os
import signal
import sys


def _end_quietly(number: int, frame: object) -> None:
    os.write(2, b"stopped by Ctrl-C; nothing had begun\n")
    os._exit(128 + number)


def _is_command() -> bool:
    """Whether this is the import of `python -m lrt_jax.NAME`, and not that of another program."""
    return any(argument.startswith("lrt_jax.") for argument in sys.orig_argv)


# Imports take seconds. A program that imports the package keeps its own handlers.
if _is_command() and signal.getsignal(signal.SIGINT) == signal.default_int_handler:
    signal.signal(signal.SIGINT, _end_quietly)  # until `commands.run` has its own

# transformers serves for tokenizers and configs alone here; that it finds no PyTorch is no news.
os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
