"""A run that is asked to stop says how to go on, and ends soon."""

import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from lrt_jax.parallel.shutdown import NAMES
from lrt_jax.training import stopping
from lrt_jax.training.stopping import Stopper
from tests.compiling import FAST
from tests.logs import logged
from tests.parallel.world import free_port

ROOT = Path(__file__).parents[2]


def wait_for(condition):
    for _ in range(1000):
        if condition():
            return
        time.sleep(0.005)
    raise AssertionError("it never came")


@pytest.fixture
def ended(monkeypatch):
    """Exit codes of the process, had it really ended."""
    codes = []
    monkeypatch.setattr(os, "_exit", codes.append)
    return codes


def test_a_request_waits_for_work_that_is_not_saved(ended):
    with logged() as lines, Stopper(unsaved=lambda: True) as stopper:
        assert not stopper.asked
        os.kill(os.getpid(), signal.SIGTERM)
        wait_for(lambda: lines)
        assert stopper.asked and not ended
        assert lines == ["SIGTERM: stopping once this step is saved; once more stops at once"]
        with pytest.raises(SystemExit) as caught:
            stopper.end(3, 8)
        assert caught.value.code == 128 + signal.SIGTERM
        assert lines[-1] == (
            "stopped by SIGTERM after step 3 of 8, which is saved; the same command goes on"
        )
        os.kill(os.getpid(), signal.SIGINT)
        wait_for(lambda: ended)
        assert ended == [130]
    assert any("Ctrl-C at once (asked twice)" in line for line in lines)


def test_a_closed_terminal_is_a_request_however_often_it_is_told(ended):
    with logged() as lines, Stopper(unsaved=lambda: True) as stopper:
        os.kill(os.getpid(), signal.SIGHUP)
        wait_for(lambda: lines)
        assert stopper.asked and "SIGHUP (the terminal was closed): stopping once" in lines[0]
        for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGHUP):  # as a session ends
            os.kill(os.getpid(), number)
        wait_for(lambda: len(lines) > 1)
        assert not ended and "SIGTERM: stopping once this step is saved" in lines[1]
        os.kill(os.getpid(), signal.SIGTERM)
        wait_for(lambda: ended)
    assert ended == [143]


def test_nohup_is_respected(ended):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Stopper(unsaved=lambda: False) as stopper:
            assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
            os.kill(os.getpid(), signal.SIGHUP)
            time.sleep(0.05)
            assert not stopper.asked and not ended
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_request_ends_at_once_where_nothing_is_lost(ended):
    with logged() as lines, Stopper(unsaved=lambda: False):
        os.kill(os.getpid(), signal.SIGINT)
        wait_for(lambda: ended)
    assert ended == [130] and "Ctrl-C at once" in lines[0]


def test_a_request_ends_when_the_checkpoint_is_whole(ended, monkeypatch):
    """The loop may be in an evaluation, and answer only after it."""
    monkeypatch.setattr(stopping, "GRACE", 0.01)
    saving = [True]
    with logged() as lines, Stopper(unsaved=lambda: saving[0]):
        os.kill(os.getpid(), signal.SIGTERM)
        wait_for(lambda: lines)
        time.sleep(0.1)
        assert not ended
        saving[0] = False
        wait_for(lambda: ended)
    assert ended == [143] and "SIGTERM at once (all is saved)" in lines[-1]


def test_a_loop_that_ends_in_order_is_left_to_it(ended, monkeypatch):
    monkeypatch.setattr(stopping, "GRACE", 0.1)
    saving = [True]
    with logged() as lines, Stopper(unsaved=lambda: saving[0]) as stopper:
        os.kill(os.getpid(), signal.SIGTERM)
        wait_for(lambda: lines)
        saving[0] = False
        with pytest.raises(SystemExit):
            stopper.end(3, 8)
    time.sleep(0.2)
    assert not ended


def test_handlers_are_as_they_were_afterwards():
    before = [signal.getsignal(number) for number in NAMES]
    with Stopper(unsaved=lambda: True):
        assert signal.getsignal(signal.SIGINT) is not before[1]
    assert [signal.getsignal(n) for n in NAMES] == before


@contextmanager
def running(data, workdir, until, *how):
    """A run of the built-in model, as a process that has said a line that begins so."""
    process = subprocess.Popen(
        [
            *(sys.executable, *how, "--config=configs/hpdv2.py:tiny", f"--workdir={workdir}"),
            *(f"--config.data.path={data}", "--config.batch_size=4", "--config.group_size=2"),
            *("--config.eval.pairs=2", "--config.eval.batch_size=4"),
            "--config.data.near_duplicates=keep",  # captions of a template
            "--config.data.split_fractions.train=0.7",
            "--config.data.split_fractions.validation=0.3",
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=ROOT,
        env=os.environ | {"XLA_FLAGS": FAST},
    )
    try:
        while not process.stdout.readline().startswith(until):
            assert process.poll() is None
        yield process
    finally:
        process.kill()
        process.wait()


def test_ctrl_c_while_everything_compiles(data, tmp_path):
    """The first evaluation and the first step compile for longer than people wait."""
    with running(data, tmp_path, "training on", "-m", "lrt_jax.main") as process:
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=10) == 130
        assert "stopped by Ctrl-C at once" in process.stdout.read()


def test_sigterm_is_heard_though_jax_is_in_a_cluster(data, tmp_path):
    """JAX takes the signal for itself as it joins one, be it of one process."""
    alone = f"60, '127.0.0.1:{free_port()}', 1, 0"
    in_a_cluster = (
        "from lrt_jax import main; from lrt_jax.cli import commands;"
        "from lrt_jax.parallel import processes;"
        f"processes.initialize = lambda **_: processes._initialize({alone});"
        "commands.run(main.main, main.define_flags)"
    )
    with running(data, tmp_path, "training on", "-c", in_a_cluster) as process:
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=10) == 143
        assert "stopped by SIGTERM at once" in process.stdout.read()
