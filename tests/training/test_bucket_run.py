"""A run whose workdir and data are in a bucket is the run of a disk: lost, and gone on with."""

import os
import shutil
import time
from pathlib import Path

import pytest

from benchmarks.interruptions import differences
from lrt_jax.bucket import Bucket
from lrt_jax.data.build import prepare
from tests import storage
from tests.parallel.world import World

HOME = "gs://things/runs/one"
FIELDS = {
    "steps": 4,
    "batch_size": 4,
    "group_size": 2,
    "max_completion_length": 24,
    "checkpoint_every": 2,
    "completions_every": 1,
    "data.path": "gs://things/pairs",
    "data.threads": 1,
    "data.max_patches": 64,
    "eval.every": 0,
    "eval.pairs": 2,
    "eval.batch_size": 4,
}
SPLITS = {"train": 0.7, "validation": 0.15, "test": 0.15}  # as the config has them
WHOLE = "runs/one/checkpoints/2/commit_success.txt"  # which Orbax writes last


@pytest.fixture(scope="module")
def things(data, tmp_path_factory):
    """A bucket that holds a prepared set, and in the environment the way to it."""
    prepared = tmp_path_factory.mktemp("prepared") / "pairs"
    prepare("hpdv2", data, prepared, split_fractions=SPLITS, near_duplicates="keep")
    with storage.serving("things") as server, pytest.MonkeyPatch.context() as patch:
        for path in prepared.rglob("*"):
            if path.is_file():
                name = f"pairs/{path.relative_to(prepared).as_posix()}"
                server.put("things", name, path.read_bytes())
        for name, value in server.environment.items():
            patch.setenv(name, value)
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield server


def run(workdir: str, count: int = 1) -> World:
    """The built-in model on two devices, of so many processes."""
    fields = [f"--config.{name}={value}" for name, value in FIELDS.items()]
    command = ["lrt_jax.main", "--config=configs/hpdv2.py:tiny", f"--workdir={workdir}", *fields]
    return World(command, count, 2 // count, flags=True)


def test_two_are_lost_with_their_disks_and_one_goes_on(things, tmp_path):
    with run(HOME, 2) as world:
        while WHOLE not in things.buckets["things"]:
            assert all(process.poll() is None for process in world.processes), world.wait()
            time.sleep(0.01)
    assert f"{HOME.removeprefix('gs://things/')}/results.json" not in things.buckets["things"]
    cache = Path(os.environ["XDG_CACHE_HOME"])
    assert {path.name for path in cache.glob("lrt_jax/workdirs/things/runs/one/*")} == {
        "process-0",
        "process-1",
    }
    shutil.rmtree(cache)

    with run(HOME) as world, run(str(tmp_path / "alone")) as other:
        (ended,), (alone,) = world.wait(), other.wait()
    assert ended.code == alone.code == 0, ended.output + alone.output
    assert "going on from the checkpoint of step 2" in ended.output
    assert f"results: {HOME}/results.json" in ended.output

    bucket = Bucket(HOME)
    bucket.fetch(bucket.files(), tmp_path / "fetched")
    found = differences(tmp_path / "alone", tmp_path / "fetched")
    assert [name for name in found if not name.startswith("metrics")] == []
