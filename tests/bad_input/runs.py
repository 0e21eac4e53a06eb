"""Runs that cannot go on, disks, and numbers that are none."""

import shutil

import jax.numpy as jnp
import numpy as np

from lrt_jax.algorithms.state import TrainState
from lrt_jax.cli.commands import resolve_folder
from lrt_jax.parallel.mesh import make_mesh
from lrt_jax.reporting.metrics import MetricsWriter
from lrt_jax.rl.rewards import RewardInputs, combine
from lrt_jax.storage.disk import new_folder
from lrt_jax.storage.workdir import make_workdir, open_workdir
from lrt_jax.training.checkpoint import Checkpointer, abstract_state
from lrt_jax.training.evaluations import read_evaluation
from lrt_jax.training.files import (
    check_same_config,
    check_same_inputs,
    record_config,
    recorded_config,
    write_json,
)
from tests.bad_input.registry import kind
from tests.training.small_run import tiny_config
from tests.training.test_checkpoint import Position
from tests.training.test_files import evaluation

RUNS = "Going on, and numbers"


@kind(RUNS, "a workdir of another run")
def _(folder):
    record_config(tiny_config("data"), {}, folder)
    check_same_config(tiny_config("data", group_size=2), folder)


@kind(RUNS, "a harmless change")
def _(folder):
    record_config(tiny_config("data"), {}, folder)
    check_same_config(tiny_config("data", checkpoint_every=7), folder)


@kind(RUNS, "a model that changed under a run")
def _(folder):
    record_config(tiny_config("data"), {"model": "1"}, folder)
    check_same_inputs({"model": "2"}, folder)


@kind(RUNS, "checkpoints without the config that they are of")
def _(folder):
    (folder / "checkpoints" / "4").mkdir(parents=True)
    check_same_config(tiny_config("data"), folder)


@kind(RUNS, "a config.json that a run did not write")
def _(folder):
    (folder / "config.json").write_text("{}")
    check_same_config(tiny_config("data"), folder)


@kind(RUNS, "a folder that is to be exported and holds no run")
def _(folder):
    recorded_config(folder)


@kind(RUNS, "a run to export that is in another company's storage")
def _(_):
    resolve_folder("checkpoint", "s3://bucket/run")


@kind(RUNS, "a checkpoint that is not whole")
def _(folder):
    state = TrainState(jnp.int32(0), {"x": jnp.zeros(2)}, {}, ())
    with Checkpointer(folder, 2) as checkpointer:
        for step in (1, 2):
            checkpointer.save(step, state, Position())
        checkpointer.wait()
        (folder / "checkpoints" / "2" / "state" / "_METADATA").write_bytes(b"")
        checkpointer.restore(2, abstract_state(state))


@kind(RUNS, "a checkpoint under the name of another step")
def _(folder):
    state = TrainState(jnp.int32(0), {"x": jnp.zeros(2)}, {}, ())
    with Checkpointer(folder, 1) as checkpointer:
        checkpointer.save(1, state, Position())
    shutil.copytree(folder / "checkpoints" / "1", folder / "checkpoints" / "2")
    with Checkpointer(folder, 1) as checkpointer:
        checkpointer.restore(2, abstract_state(state))


@kind(RUNS, "a checkpoint of another run")
def _(folder):
    state = TrainState(jnp.int32(0), {"x": jnp.zeros(2)}, {}, ())
    with Checkpointer(folder, 1, run={"config": "1"}) as checkpointer:
        checkpointer.save(1, state, Position())
    with Checkpointer(folder, 1, run={"config": "2"}) as checkpointer:
        checkpointer.restore(1, abstract_state(state))


@kind(RUNS, "a checkpoint that there is not")
def _(folder):
    with Checkpointer(folder, 1) as checkpointer:
        checkpointer.find(40)


@kind(RUNS, "an evaluation from which its digest was taken")
def _(folder):
    write_json(folder / "eval" / "step-000002.json", evaluation(2, accuracy=0.5))
    read_evaluation(folder, 2)


@kind(RUNS, "a workdir that is removed under a run")
def _(folder):
    with MetricsWriter(folder / "run") as metrics:
        shutil.rmtree(folder / "run")
        metrics.write(1, {"loss": 1.0})


@kind(RUNS, "a disk that is full, met by a library that says so in its own words")
def _(folder):
    with new_folder(folder / "data"):
        raise RuntimeError("write() failed: No space left on device; at byte 4096")


@kind(RUNS, "a workdir that is neither here nor in a bucket")
def _(_):
    resolve_folder("workdir", "s3://bucket/run")


@kind(RUNS, "a workdir in no bucket")
def _(_):
    resolve_folder("workdir", "gs://")


@kind(RUNS, "a workdir in a bucket without a name, of a variable that is not set")
def _(_):
    resolve_folder("workdir", "gs:///run")


@kind(RUNS, "a workdir without a name")
def _(_):
    resolve_folder("workdir", "")


@kind(RUNS, "a workdir that is a file")
def _(folder):
    (folder / "run").write_text("dear")
    make_workdir(folder / "run")


@kind(RUNS, "a mesh of more devices than there are")
def _(_):
    make_mesh(fsdp=64)


@kind(RUNS, "a listener that gives no number")
def _(_):
    heard = jnp.array([[0.3, jnp.nan]])
    combine(
        RewardInputs(
            np.ones((1, 2), bool), np.zeros((1, 2), np.int8), np.asarray(heard), np.ones(1)
        ),
        {"format": 1.0, "listener": 0.5},
    )


@kind(RUNS, "a workdir in whose name is a bracket, such as that of a job of an array")
def _(folder):
    open_workdir(folder / "run[1]")
