"""A step is the same step on one device and on any mesh, in one process and in several."""

import json
import pickle
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

from tests.parallel.world import World
from tests.rl.recorded import record
from tests.rl.test_learner import assert_same_gradient

# data, fsdp, tensor, and attn_dp
ALONE = [(1, 1, 1), (1, 2, 1), (1, 2, 2), (1, 8, 1), (2, 2, 2), (1, 2, 2, 2)]
TOGETHER = {(2, 2): [(1, 2, 2)], (4, 1): [(2, 1, 2)]}  # by processes and devices of each
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def folder(one, tmp_path_factory) -> Path:
    """The model, and rows of which every device of eight has one in each microbatch."""
    folder = tmp_path_factory.mktemp("worlds")
    shutil.copytree(one.folder, folder / "model")
    recorded = jax.device_get(record(one, pairs=16, group=2, time=5))
    (folder / "recorded.pickle").write_bytes(pickle.dumps(recorded))
    return folder


def found(folder: Path, meshes, count: int, devices: int) -> dict:
    """What came of some meshes, by mesh."""
    (folder / "order.json").write_text(json.dumps(meshes))
    with World(["tests.parallel.step_process", str(folder)], count, devices) as world:
        for ended in world.wait():
            assert ended.code == 0, ended.output
    files = {mesh: folder / ("-".join(map(str, mesh)) + ".pickle") for mesh in meshes}
    return {mesh: pickle.loads(file.read_bytes()) for mesh, file in files.items()}


@pytest.fixture(scope="module")
def alone(folder) -> dict:
    return found(folder, ALONE, 1, 8)


def assert_same_step(got: dict, wanted: dict) -> None:
    """Within rounding; sampled tokens exactly."""
    assert_same_gradient(got["grads"], wanted["grads"], TOLERANCE)
    assert_same_gradient(got["updated"], wanted["updated"], TOLERANCE)
    for name, value in wanted["metrics"].items():
        np.testing.assert_allclose(got["metrics"][name], value, rtol=1e-5, atol=1e-6, err_msg=name)
    np.testing.assert_array_equal(got["tokens"], wanted["tokens"])
    np.testing.assert_allclose(got["sampler_logps"], wanted["sampler_logps"], atol=1e-5)
    for theirs, ours in zip(got["heard"], wanted["heard"], strict=True):
        np.testing.assert_allclose(theirs, ours, atol=1e-5)


@pytest.mark.parametrize("mesh", ALONE[1:])
def test_any_mesh_takes_the_same_step(alone, mesh):
    assert_same_step(alone[mesh], alone[1, 1, 1])


@pytest.mark.parametrize("count, devices", TOGETHER)
def test_several_processes_take_the_same_step(folder, alone, count, devices):
    for got in found(folder, TOGETHER[count, devices], count, devices).values():
        assert_same_step(got, alone[1, 1, 1])
