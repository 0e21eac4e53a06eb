"""Where one process is lost, the others end in time, with a line that names it."""

import re
import signal
import subprocess
import sys

import jax
import pytest

from lrt_jax.parallel import processes
from tests.parallel.world import World, free_port

COUNT = 3
GOES_ON = "start all again, and they go on from the last checkpoint"


def ends(how: str, victim: int):
    """How the others end, each within the time."""
    with World(["tests.parallel.losing_process", how, str(victim)], COUNT) as world:
        others = [i for i in range(COUNT) if i != victim]
        ended = world.wait(others, timeout=90)
        return dict(zip(others, ended, strict=True))


@pytest.mark.parametrize("how, victim", [("kill", 1), ("freeze", 0), ("freeze", 1)])
def test_a_lost_process_is_named(how, victim):
    others = ends(how, victim)
    for ended in others.values():
        assert ended.code == processes.LOST, ended.output
        assert re.search(rf"ended, since process {victim} of {COUNT} ", ended.output), ended.output
        assert GOES_ON in ended.output


def test_a_killed_coordinator_is_named():
    """JAX itself hears of it first, and ends the others with words of its own."""
    for ended in ends("kill", 0).values():
        assert ended.code in (processes.LOST, -signal.SIGABRT), ended.output
        assert re.search("process 0 of 3|the leader task was preempted/died", ended.output)


def test_why_a_process_failed_is_told_to_the_others():
    others = ends("fail", 2)
    for ended in others.values():
        assert ended.code == processes.LOST
        assert "process 2 of 3" in ended.output
        assert "FileNotFoundError: data.path: /data/set: no such folder" in ended.output


def test_what_differs_between_processes_is_named():
    others = ends("differ", 1)
    for ended in others.values():
        assert "process 1 of 3 has another colour than process 0: red, not blue" in ended.output


def test_a_run_that_lacks_a_process_ends():
    code = (
        "from lrt_jax.parallel import processes; processes.JOINING = 2.0;"
        f"processes.join('127.0.0.1:{free_port()}', 2, 0)"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ended.returncode == processes.LOST
    assert "not all processes came: this is process 0 of 2, and process 0 is 127" in ended.stderr


@pytest.mark.parametrize(
    "place, message",
    [
        (("127.0.0.1:1", 2, -1), "--coordinator_address, --num_processes and --process_id go tog"),
        (("127.0.0.1:1", 2, 2), "--process_id=2: the last of 2 processes is 1"),
    ],
)
def test_places_that_cannot_be(place, message):
    with pytest.raises(ValueError, match=message):
        processes.join(*place)


@pytest.mark.parametrize(
    "attached, address, raised, joined",
    [
        (False, "", None, 0),  # one machine without a TPU asks nobody
        (True, "", None, 1),  # a TPU VM, alone or of a slice: its metadata say
        (True, "", "coordinator_address should be defined.", 1),  # a TPU outside of the cloud
        (False, "127.0.0.1:1", None, 1),
    ],
)
def test_tpus_find_one_another_without_flags(monkeypatch, attached, address, raised, joined):
    calls = []

    def initialize(*place, **limits):
        calls.append(place)
        if raised:
            raise ValueError(raised)

    monkeypatch.setattr(jax.distributed, "initialize", initialize)
    monkeypatch.setattr(processes, "tpu_attached", lambda: attached)
    monkeypatch.setenv("JAX_COORDINATOR_ADDRESS", address)
    if not address:
        monkeypatch.delenv("JAX_COORDINATOR_ADDRESS")
    processes.join()
    assert calls == [()] * joined
    assert processes.is_first()


def test_a_process_that_does_not_come_is_named():
    for ended in ends("absent", 1).values():
        assert ended.code == 1 or "TimeoutError" in ended.output
        assert "waited 4 s for process 1 to come to: ready" in ended.output


def test_slow_is_not_lost():
    """A process that is busy for longer than the patience shows signs of life."""
    with World(["tests.parallel.losing_process", "late", "1"], COUNT) as world:
        for ended in world.wait():
            assert ended.code == 0, ended.output
            assert "ended, since" not in ended.output
