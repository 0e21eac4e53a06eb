"""What is planned is what runs: the same jitted functions, on arrays alike in shape and place.

A run here makes all its calls and computes none of them: its results are ones, of the shapes and
in the places that the functions themselves ask for.
"""

import shutil

import jax
import numpy as np
import pytest

from lrt_jax import assets
from lrt_jax.algorithms import grpo, sft
from lrt_jax.config import Config
from lrt_jax.parallel.mesh import make_mesh
from lrt_jax.planning.pieces import trace_run
from lrt_jax.rl.engine import Engine
from lrt_jax.storage.workdir import LocalWorkdir
from lrt_jax.training import setup
from lrt_jax.training.loop import train
from tests.training.small_run import sft_config, tiny_config

SHORT = {"steps": 1, "eval.every": 0, "eval.pairs": 2, "completions_every": 0}
MESH = {"mesh.fsdp": 2, "mesh.tensor": 2}
JUDGED = {"listener.style": "judge", "loss.beta": 0.1, "loss.num_iterations": 2}
HALVED = {"batch_size": 8, "loss.microbatches": 2}
CASES = {
    "a judge and a reference": JUDGED | HALVED | MESH,
    "one pass for both, a trained tower": {
        "loss.beta": 0.1,
        "model.dtype": "bfloat16",
        "model.freeze": (),
    },
}


class Recorded:
    """A jitted function whose calls are kept, and whose results are ones."""

    def __init__(self, jitted, calls: set):
        self._jitted, self._calls = jitted, calls
        self.trace = jitted.trace

    def __call__(self, *args, **static):
        leaves = [x for x in jax.tree.leaves(args) if isinstance(x, jax.Array)]
        self._calls.add(call(self._jitted.__name__, leaves, static))
        return jax.tree.map(ones, self._jitted.trace(*args, **static).out_info)


def ones(result: jax.ShapeDtypeStruct) -> jax.Array:
    """Where the result would be."""
    return jax.device_put(np.ones(result.shape, result.dtype), result.sharding)


def call(name: str, arrays, static) -> tuple:
    """A call by its function, what describes its arrays, and what it is given by name."""
    return name, tuple(map(describe, arrays)), tuple(sorted(static.items()))


def describe(array) -> tuple:
    """Shape, dtype, and what of it lies on each device."""
    return array.shape, array.dtype.name, array.sharding.shard_shape(array.shape)


@pytest.fixture
def calls(monkeypatch) -> set:
    """Of the jitted functions of every run from here on."""
    found: set = set()

    class RecordedEngine(Engine):
        def __init__(self, *args):
            super().__init__(*args)
            for name in ("_encode", "_sample", "_frozen_pass", "_cast"):
                setattr(self, name, Recorded(getattr(self, name), found))

    def recorded(updater):
        class RecordedUpdater(updater):
            def __init__(self, *args):
                super().__init__(*args)
                self._update = Recorded(self._update, found)

        return RecordedUpdater

    monkeypatch.setattr(setup, "Engine", RecordedEngine)
    monkeypatch.setattr(grpo, "Updater", recorded(grpo.Updater))
    monkeypatch.setattr(sft, "Updater", recorded(sft.Updater))
    return found


def planned(config: Config) -> set:
    axes = config.mesh
    mesh = make_mesh(axes.data, axes.fsdp, axes.tensor, axes.attn_dp)
    pieces = trace_run(config, mesh, lambda sizes: sizes)
    return {call(x.traced.fun_name, x.arguments, x.static) for x in pieces}


@pytest.mark.parametrize("name", CASES)
def test_grpo(name, calls, data, tmp_path, unchecked):
    other = tmp_path / "other"  # in the style of the first listener
    shutil.copytree(assets.tiny_model(), other)
    fields = {"model.path": "tiny", "mesh.fsdp": 4, "eval.held_out_listener": str(other)}
    config = tiny_config(data, **SHORT | fields | CASES[name])
    train(config, LocalWorkdir(tmp_path / "run"))
    assert planned(config) == calls


def test_sft(calls, tmp_path, unchecked):
    sizes = {"data.prompt_tokens": 224, "data.judge_tokens": 224, "listener.style": "judge"}
    config = sft_config(**SHORT | sizes | {"eval.listener": True, "mesh.fsdp": 4})
    train(config, LocalWorkdir(tmp_path))
    assert planned(config) == calls
