"""A run of several processes is the run of one: stopped, killed, and moved to fewer of them."""

import json
import re
import signal
import time
from pathlib import Path

import pytest

from benchmarks.interruptions import differences, numbers
from lrt_jax.parallel import processes
from lrt_jax.reporting.metrics import read_metrics
from tests.parallel.world import World

STEPS = 12
FIELDS = {
    "steps": STEPS,
    "batch_size": 4,
    "group_size": 2,
    "max_completion_length": 60,  # room for an answer, so that there are rewards to learn from
    # Adam makes steps of rounding where a gradient is next to nothing; these stay next to nothing.
    "optimizer.learning_rate": 1e-7,
    "checkpoint_every": 5,
    "completions_every": 1,
    "data.near_duplicates": "keep",
    "data.split_fractions.train": 0.7,
    "data.split_fractions.validation": 0.3,
    "data.threads": 1,
    "data.max_patches": 64,
    "eval.every": 0,
    "eval.pairs": 2,
    "eval.batch_size": 4,
    "eval.held_out_listener": None,
}


def run(workdir: Path, data: Path, count: int) -> World:
    """The built-in model on four devices, of so many processes."""
    fields = [f"--config.{name}={value}" for name, value in FIELDS.items()]
    command = ["lrt_jax.main", "--config=configs/hpdv2.py:tiny", f"--workdir={workdir}"]
    command += [f"--config.data.path={data}", *fields]
    return World(command, count, 4 // count, flags=True)


def wait_for(world: World, condition) -> None:
    while not condition():
        assert all(process.poll() is None for process in world.processes), world.wait()
        time.sleep(0.01)


def steps_saved(workdir: Path) -> list[int]:
    names = [path.name for path in (workdir / "checkpoints").glob("*")]
    return sorted(int(name) for name in names if name.isdigit())


def without_drift(workdir: Path) -> list[dict]:
    """Metrics of every step but those that are nothing else than rounding."""
    return [{k: v for k, v in x.items() if "drift" not in k} for x in numbers(workdir)]


def judgements(workdir: Path) -> list[dict]:
    """What the evaluation after the last step predicts, sampled and greedy."""
    content = json.loads((workdir / "eval" / f"step-{STEPS:06}.json").read_text())
    return [content["judgements"][mode] for mode in ("sampled", "greedy")]


@pytest.fixture(scope="module")
def alone(data, tmp_path_factory) -> Path:
    """Workdir of the run of one process, to which nothing happens."""
    workdir = tmp_path_factory.mktemp("alone")
    with run(workdir, data, 1) as world:
        (ended,) = world.wait()
        assert ended.code == 0, ended.output
    return workdir


def test_stopped_by_four_killed_among_two_ended_by_one(alone, data, tmp_path):
    with run(tmp_path, data, 4) as world:
        wait_for(world, lambda: len(read_metrics(tmp_path)) > 1)  # there is something to save
        world.processes[2].send_signal(signal.SIGTERM)  # as where one machine is taken away
        for index, ended in enumerate(world.wait()):
            assert ended.code == 143, ended.output
            said = "stopped by a request to another process after step" in ended.output
            assert said == (index == 0)
    stopped = steps_saved(tmp_path)[-1]
    assert 1 < stopped < STEPS - 3

    with run(tmp_path, data, 2) as world:
        wait_for(world, lambda: steps_saved(tmp_path)[-1] > stopped)
        world.processes[1].kill()
        (ended,) = world.wait([0])
        assert ended.code == processes.LOST, ended.output
        assert f"going on from the checkpoint of step {stopped}" in ended.output
        assert re.search(r"ended, since process 1 of 2 \(.*\) showed no sign", ended.output)
    assert STEPS not in steps_saved(tmp_path)

    with run(tmp_path, data, 1) as world:
        (ended,) = world.wait()
        assert ended.code == 0, ended.output
    # Sums over four processes add in another order than over four devices of one.
    assert [line["step"] for line in numbers(tmp_path)] == list(range(1, STEPS + 1))
    expected = without_drift(alone)
    assert all(line["grad_norm"] > 0.01 for line in expected)  # there is something to learn
    near = [pytest.approx(line, rel=1e-5, abs=1e-8) for line in expected]  # a KL is 1e-9
    assert without_drift(tmp_path) == near
    differ = differences(alone, tmp_path)
    assert [x for x in differ if not x.startswith(("metrics", "state", "step-"))] == []
    for said, expected in zip(judgements(tmp_path), judgements(alone), strict=True):
        assert said["choice"] == expected["choice"]
        assert said["p_first"] == pytest.approx(expected["p_first"], abs=1e-5, nan_ok=True)
