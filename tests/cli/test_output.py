"""A terminal that is gone, a reader that has ended and a full disk end no command."""

import io
import os
import subprocess
import sys

import pytest

from lrt_jax.cli.output import LastingOutput

COMMAND = """
import pathlib, sys
from lrt_jax.cli import commands

def busy(flags):
    for step in range(3):
        commands.say(f"step {step} \\xe4")
    print("done", file=sys.stderr)
    pathlib.Path(sys.argv[0]).write_text("all steps")

sys.argv = sys.argv[1:]
commands.run(busy, lambda values: None, sys)
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
