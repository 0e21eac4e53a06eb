"""A run whose workdir and data are in a bucket is the run of a disk: lost, and gone on with."""

import os
import shutil
import time
from pathlib import Path

import pytest

from benchmarks.interruptions import differences, numbers
from lrt_jax.data.preparation.prepare import prepare
from lrt_jax.models import record_files
from lrt_jax.storage.bucket import Bucket
from tests import bucket_server
from tests.loopback import serving
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
    "eval.held_out_listener": None,
}
SPLITS = {"train": 0.7, "validation": 0.3}
WHOLE = "runs/one/checkpoints/2/commit_success.txt"  # which Orbax writes last


@pytest.fixture(scope="module")
def things(data, tmp_path_factory):
    """A bucket that holds a prepared set, and in the environment the way to it."""
    prepared = tmp_path_factory.mktemp("prepared") / "pairs"
    prepare("hpdv2", data, prepared, split_fractions=SPLITS, near_duplicates="keep")
    with serving(bucket_server.Storage("things")) as server, pytest.MonkeyPatch.context() as patch:
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
    shares = {f"data.split_fractions.{name}": share for name, share in SPLITS.items()}
    fields = [f"--config.{name}={value}" for name, value in (FIELDS | shares).items()]
    command = ["lrt_jax.main", "--config=configs/hpdv2.py:tiny", f"--workdir={workdir}", *fields]
    return World(command, count, 2 // count, flags=True)


def fetched(address: str, folder: Path) -> Path:
    """What lies in a bucket, copied here."""
    bucket = Bucket(address)
    bucket.fetch(bucket.files(), folder)
    return folder


@pytest.fixture(scope="module")
def whole(things, tmp_path_factory) -> Path:
    """A copy of the run that two processes began and lost, and one has ended, from the bucket."""
    with run(HOME, 2) as world:
        while WHOLE not in things.buckets["things"]:
            assert all(process.poll() is None for process in world.processes), world.wait()
            time.sleep(0.01)
    assert "runs/one/results.json" not in things.buckets["things"]
    cache = Path(os.environ["XDG_CACHE_HOME"]) / "lrt_jax/workdirs/things/runs/one"
    assert {path.name for path in cache.iterdir()} == {"process-0", "process-1"}
    shutil.rmtree(cache)  # with the machines
    things.put("things", "runs/one/checkpoints/4/state/_METADATA", b"of one that is not whole")

    with run(HOME) as world:
        (ended,) = world.wait()
    assert ended.code == 0, ended.output
    assert "going on from the checkpoint of step 2" in ended.output
    written = [name for what, _, name in things.done if what == bucket_server.WRITTEN]
    counted = written.index("runs/one/checkpoints/4/commit_success.txt")
    assert "runs/one/metrics.jsonl" in written[written.index(WHOLE) : counted]
    assert f"results: {HOME}/results.json" in ended.output
    return fetched(HOME, tmp_path_factory.mktemp("whole"))


def test_it_is_the_run_of_a_disk(whole, tmp_path):
    with run(str(tmp_path)) as world:
        (ended,) = world.wait()
    assert ended.code == 0, ended.output
    # Sums over two processes add in another order.
    assert numbers(whole) == [pytest.approx(line, rel=1e-6) for line in numbers(tmp_path)]
    found = differences(tmp_path, whole)
    assert [name for name in found if not name.startswith("metrics")] == []
    names = [{path.name for path in folder.iterdir()} for folder in (tmp_path, whole)]
    assert names[1] == names[0] - {".lock", "data"}


def test_its_checkpoint_is_exported_into_the_bucket(whole, things, tmp_path):
    command = ["lrt_jax.export", f"--checkpoint={HOME}", "--output=gs://things/model"]
    (tmp_path / "model-00001-of-00002.safetensors").write_bytes(b"of an older one")
    record_files(tmp_path)
    for path in tmp_path.iterdir():
        things.put("things", f"model/{path.name}", path.read_bytes())
        path.unlink()
    with World(command, 1, flags=True) as world:
        (ended,) = world.wait()
    assert ended.code == 0 and "model of step 4: gs://things/model" in ended.output, ended.output
    assert "read only" not in ended.output  # what Orbax says of opening without writing
    model = fetched("gs://things/model", tmp_path)
    made = [{x.name: x.read_bytes() for x in y.iterdir()} for y in (model, whole / "export")]
    assert made[0] == made[1]
