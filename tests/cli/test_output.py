"""What a command shows: its own log alone, and no output that is lost ends it."""

import io
import logging
import os
import subprocess
import sys

import pytest

from lrt_jax.cli.output import LastingOutput, LogHandler
from lrt_jax.parallel import processes

COMMAND = """
import pathlib, sys
from lrt_jax.cli import commands

def busy(flags):
    for step in range(3):
        commands.log(f"step {step} \\xe4")
    print("done", file=sys.stderr)
    pathlib.Path(sys.argv[0]).write_text("all steps")

sys.argv = sys.argv[1:]
commands.run(busy, lambda values: None)
"""
LOGGING = """
import logging
import absl.logging
from lrt_jax.cli import commands

def busy(flags):
    for name in ("lrt_jax.training.loop", "other"):
        logging.getLogger(name).info(f"{name}: 100% \\x1b[2J")
        logging.getLogger(name).warning("of %d pairs", 3)
    absl.logging.info("evaluating")
    commands.log("done")

commands.run(busy, lambda values: None)
"""
LIBRARY = """
import logging, sys
import lrt_jax
from lrt_jax.reporting import warnings

warnings.Warnings().check(1, {"kl": 9.0})
logger, root = logging.getLogger("lrt_jax"), logging.getLogger()
logger.info("not shown")
assert not logger.level and logger.propagate and not root.handlers and root.level == logging.WARNING
logging.basicConfig(level=logging.INFO, stream=sys.stdout)
logger.info("shown")
"""


def closed_pipe() -> int:
    reader, writer = os.pipe()
    os.close(reader)
    return writer


def closed_terminal() -> int:
    ours, theirs = os.openpty()
    os.close(ours)
    return theirs


def full_disk() -> int:
    return os.open("/dev/full", os.O_WRONLY)


@pytest.mark.parametrize("made", [closed_pipe, closed_terminal, full_disk])
def test_what_cannot_be_written_is_told_once_and_lost(made, capsys):
    with os.fdopen(made(), "w") as stream:
        lasting = LastingOutput(stream, "standard output", other="stderr")
        for _ in range(3):
            print("step", file=lasting, flush=True)
        lasting.write("x" * 10**6)
    errors = capsys.readouterr().err
    assert errors.startswith("note: standard output is lost ([Errno ") and errors.count("note") == 1


def test_what_can_be_written_is():
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    lasting = LastingOutput(stream, "standard output", other="stderr")
    print("ä, 1", file=lasting, flush=True)
    assert stream.buffer.getvalue() == b"\\xe4, 1\n" and lasting.encoding == "ascii"


def test_a_command_ends_well_without_its_output(tmp_path):
    """One stream is full, the other was closed from the start."""
    redirected = '"$0" -c "$1" "$2" >/dev/full 2>&-'
    done = subprocess.run(["sh", "-c", redirected, sys.executable, COMMAND, tmp_path / "file"])
    assert done.returncode == 0
    assert (tmp_path / "file").read_text() == "all steps"


def test_a_command_shows_the_packages_log_and_other_warnings_elsewhere():
    run = [sys.executable, "-c", LOGGING]
    done = subprocess.run(run, capture_output=True, text=True, check=True)
    shown = "lrt_jax.training.loop: 100% \\x1b[2J\nwarning: of 3 pairs\ndone\n"
    assert done.stdout == shown
    [line] = done.stderr.splitlines()
    assert line.startswith("W") and line.endswith("] of 3 pairs")


def test_the_log_of_the_first_process_alone_is_shown(monkeypatch, capsys):
    logger = logging.Logger("lrt_jax")
    logger.addHandler(LogHandler())
    for is_first in (True, False):
        monkeypatch.setattr(processes, "is_first", lambda is_first=is_first: is_first)
        logger.info(f"first: {is_first}")
    assert capsys.readouterr().out == "first: True\n"


def test_a_program_that_sets_up_no_logging_is_shown_nothing():
    run = [sys.executable, "-c", LIBRARY]
    done = subprocess.run(run, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("INFO:lrt_jax:shown\n", "")
