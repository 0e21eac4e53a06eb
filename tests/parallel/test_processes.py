"""Where one process is lost, the others end in time, with a line that names it."""

import re
import signal
import subprocess
import sys
import time

import jax
import pytest

from lrt_jax.parallel import processes
from tests.parallel.world import PATIENCE, Ended, World, free_port

COUNT = 3
GOES_ON = "start all again, and they go on from the last checkpoint"


@pytest.fixture
def ends(tmp_path):
    """How the others end, where something happens to a victim, and how long that takes."""

    def ends(how: str, victim: int) -> tuple[dict[int, Ended], float]:
        command = ["tests.parallel.losing_process", how, str(victim), str(tmp_path)]
        with World(command, COUNT) as world:
            others = [i for i in range(COUNT) if i != victim]
            lost = world.processes[victim].stdout.readline if how in SAYS_WHEN else time.time
            began = next(x for x in iter(lost, "") if re.fullmatch(r"[\d.]+\n?", str(x)))
            ended = dict(zip(others, world.wait(others, timeout=90), strict=True))
            return ended, time.time() - float(began)

    return ends


SAYS_WHEN = ("kill", "freeze", "fail", "stop")


@pytest.mark.parametrize("how, victim", [("kill", 1), ("freeze", 0), ("freeze", 1)])
def test_a_lost_process_is_named(ends, how, victim):
    others, seconds = ends(how, victim)
    for ended in others.values():
        assert ended.code == processes.LOST, ended.output
        assert re.search(rf"ended, since process {victim} of {COUNT} ", ended.output), ended.output
        assert GOES_ON in ended.output
    assert 0.5 * PATIENCE < seconds < 3 * PATIENCE


def test_a_killed_coordinator_is_named(ends):
    """JAX itself hears of it first, and ends the others with words of its own."""
    others, seconds = ends("kill", 0)
    for ended in others.values():
        assert ended.code in (processes.LOST, -signal.SIGABRT), ended.output
        assert re.search("process 0 of 3|the leader task was preempted/died", ended.output)
    assert seconds < PATIENCE


@pytest.mark.parametrize(
    "how, code, why",
    [
        ("fail", 1, r"data.path: /data/set: no such folder\n"),
        ("stop", 130, r"stopped by Ctrl-C\n"),
    ],
)
def test_why_a_process_ended_is_told_to_the_others(ends, how, code, why):
    """At once, and with its code: to start again would not help."""
    others, seconds = ends(how, 2)
    for ended in others.values():
        assert ended.code == code, ended.output
        assert re.search(rf"ended, since process 2 of 3( \(.*\))? ended: {why}\Z", ended.output)
        assert GOES_ON not in ended.output
    assert seconds < PATIENCE


@pytest.mark.parametrize(
    "how, said",
    [
        ("differ", "process 1 of 3 has another colour than process 0: red, not blue"),
        ("apart", "apart: process 1 does not see there what process 0 has written"),
        ("hasty", "process 1 of 3 has another --patience than process 0: 1, not 4; give all"),
        ("absent", "waited 4 s for process 1 to come to: ready"),
    ],
)
def test_what_is_wrong_with_a_process_is_told(ends, how, said):
    others, _ = ends(how, 1)
    for ended in others.values():
        assert ended.code == 1 and said in ended.output, ended.output


def test_slow_is_not_lost(tmp_path):
    """A process that is busy for longer than the patience shows signs of life."""
    with World(["tests.parallel.losing_process", "late", "1", str(tmp_path)], COUNT) as world:
        for ended in world.wait():
            assert ended.code == 0, ended.output
            assert "ended, since" not in ended.output


def test_a_run_that_lacks_a_process_ends():
    code = (
        "from lrt_jax.parallel import processes; processes.CONNECT_TIMEOUT = 2.0;"
        f"processes.initialize('127.0.0.1:{free_port()}', 2, 0)"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ended.returncode == processes.LOST
    assert "not all processes came: this is process 0 of 2, and process 0 is 127" in ended.stderr


@pytest.mark.parametrize(
    "cluster, message",
    [
        (("127.0.0.1:1", 2, -1), "--coordinator_address, --num_processes and --process_id go tog"),
        (("127.0.0.1:1", 2, 2), "--process_id=2: the last of 2 processes is 1"),
        (("localhost", 2, 1), "--coordinator_address=localhost: give HOST:PORT"),
    ],
)
def test_clusters_that_cannot_be(cluster, message):
    with pytest.raises(ValueError, match=message):
        processes.initialize(*cluster)


@pytest.mark.parametrize(
    "attached, environment, raised, joined",
    [
        (False, {}, None, 0),  # one machine without a TPU asks nobody
        (True, {}, None, 1),  # a TPU VM, alone or of a slice: its metadata say
        (True, {"JAX_PLATFORMS": "cpu"}, None, 0),
        (True, {}, "coordinator_address should be defined.", 1),  # a TPU outside of the cloud
        (False, {"JAX_COORDINATOR_ADDRESS": "127.0.0.1:1"}, None, 1),
    ],
)
def test_tpus_find_one_another_without_flags(monkeypatch, attached, environment, raised, joined):
    calls = []

    def initialize(*cluster, **limits):
        calls.append(cluster)
        if raised:
            raise ValueError(raised)

    monkeypatch.setattr(jax.distributed, "initialize", initialize)
    monkeypatch.setattr(processes, "tpu_attached", lambda: attached)
    monkeypatch.delenv("JAX_PLATFORMS")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    processes.initialize()
    processes.initialize(num_processes=1)
    assert calls == [()] * joined
    assert processes.is_first()
