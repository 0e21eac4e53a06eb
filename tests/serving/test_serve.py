"""The command: it ends after the calls that have begun, and says what is wrong."""

import concurrent.futures
import contextlib
import re
import signal
import subprocess
import sys
import time

import pytest

from tests.serving.running import Client, comparison


@contextlib.contextmanager
def started(*flags: str, module: str = "tests.serving.stub_process"):
    command = [sys.executable, "-m", module, *flags]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def ready(process: subprocess.Popen) -> int:
    """The port of a server that was just started, once it answers."""
    port = int(re.search(r"listening at http://127\.0\.0\.1:(\d+)", process.stdout.readline())[1])
    assert process.stdout.readline() == "ready\n"
    return port


def test_sigterm_ends_it_after_the_calls_that_have_begun():
    """Which take longer than other commands get."""
    with started("--seconds=2") as process, concurrent.futures.ThreadPoolExecutor(4) as pool:
        port = ready(process)
        answers = [pool.submit(Client(port).post, "/compare", comparison(0, i)) for i in range(4)]
        time.sleep(1)
        process.send_signal(signal.SIGTERM)
        assert [x.result()[0] for x in answers] == [200] * 4
        said, _ = process.communicate(timeout=30)
        assert process.returncode == 0
        assert said == "ended; all calls that had begun are answered\n"
        with pytest.raises(ConnectionError):
            Client(port).get("/health")


def test_a_model_that_cannot_be_opened_ends_it_with_a_line():
    with started("--seconds=-1") as process:
        said, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "error: --model=nowhere: there is no such model\n" in said and "Traceback" not in said


@pytest.mark.parametrize(
    ("flag", "told"),
    [
        ("--votes=1,x", "error: --votes=1,x: numbers from 1, with commas between"),
        ("--host=192.0.2.1", "--host=192.0.2.1 --port=0: nobody can listen there"),
        ("--anchors=nowhere.png", "--anchors 'nowhere.png': no such file"),
    ],
)
def test_flags_that_cannot_be_are_told(flag, told):
    with started("--model=tiny", "--port=0", flag, module="lrt_jax.serve") as process:
        said, _ = process.communicate(timeout=60)
    assert process.returncode == 1 and told in said and "Traceback" not in said
