"""Listener-rewarded reasoning reward models for images, in JAX (arXiv 2506.22832)."""

import os
import signal
import sys

from lrt_jax.parallel.platform import leave_out_missing_tpu

__version__ = "0.1.0"


def _end_quietly(number: int, frame: object) -> None:
    os.write(2, b"stopped by Ctrl-C; nothing had begun\n")
    os._exit(128 + number)


def _is_command() -> bool:
    """Whether this is the import of `python -m lrt_jax.NAME`, before the module is looked for."""
    named = any(argument.startswith(f"{__name__}.") for argument in sys.orig_argv)
    return named and sys.argv[:1] == ["-m"]


# Imports take seconds. A program that imports the package keeps its own handlers.
if _is_command() and signal.getsignal(signal.SIGINT) == signal.default_int_handler:
    signal.signal(signal.SIGINT, _end_quietly)  # until `commands.run` has its own

leave_out_missing_tpu()
# transformers serves for tokenizers and configs alone here; that it finds no PyTorch is no news.
os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
