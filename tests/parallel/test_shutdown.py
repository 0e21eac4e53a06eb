"""Commands end when they are asked to, also where the exception is lost or nothing hears it."""

import signal
import subprocess
import sys

import pytest

from lrt_jax.parallel.shutdown import NAMES

COMMAND = """
import sys, time
from lrt_jax.cli import commands

class Careless:
    def __del__(self):  # what is raised here is lost
        print("in it", flush=True)
        time.sleep(0.5)
        print("out of it", flush=True)

def busy(flags):
    WHAT
    time.sleep(60)

commands.run(busy, lambda values: None)
"""


PLAIN, LOST = "print('in it', flush=True)", "Careless()"


@pytest.mark.parametrize(
    ("number", "what"),
    [
        (signal.SIGTERM, PLAIN),
        (signal.SIGTERM, LOST),
        (signal.SIGINT, PLAIN),
        (signal.SIGINT, LOST),
        (signal.SIGHUP, PLAIN),
    ],
)
def test_a_command_ends(number, what):
    process = subprocess.Popen(
        [sys.executable, "-c", COMMAND.replace("WHAT", what)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout.readline() == "in it\n"
        process.send_signal(number)
        said, errors = process.communicate(timeout=20)
    finally:
        process.kill()
    assert process.returncode == 128 + number
    assert f"stopped by {NAMES[number]}; what is whole stays, the same command goes on" in said
    assert "Traceback" not in errors
