"""Saves and restores checkpoints as one of several processes; run by test_shared_checkpoints.py.

    python -m tests.training.checkpoint_process FOLDER save:NAME,restore:NAME ADDRESS COUNT INDEX

FOLDER has a `model`. What was saved or restored goes to `DID-NAME-COUNT.json`: digests of the bytes
of every leaf.
"""

import hashlib
import json
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.experimental import multihost_utils

from lrt_jax.algorithms.state import TrainState, initial_state
from lrt_jax.models import load_model
from lrt_jax.parallel import processes
from lrt_jax.parallel.mesh import make_mesh
from lrt_jax.training.checkpoint import Checkpointer, abstract_state

STEP = 3


class Position:
    """Stands for a loader: a position in the data."""

    def __init__(self, place: dict):
        self.place = place

    def get_state(self) -> dict:
        return self.place

    def set_state(self, state: dict) -> None:
        self.place = state


def digests(state: TrainState) -> dict[str, str]:
    """Of every leaf's bytes, wherever they lie."""
    found = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        whole = np.asarray(multihost_utils.process_allgather(leaf, tiled=True))
        found[jax.tree_util.keystr(path)] = hashlib.sha256(whole.tobytes()).hexdigest()
    return found


def learnt(state: TrainState) -> TrainState:
    """A state whose moments are not all alike."""
    optimizer = optax.adamw(1e-3)
    grads = jax.tree.map(lambda x: jnp.cos(100 * x), state.trainable)
    updates, moments = optimizer.update(grads, state.opt_state, state.trainable)
    trainable = optax.apply_updates(state.trainable, updates)
    return state.replace(trainable=trainable, opt_state=moments)


def main(folder: Path, tasks: list[str]) -> None:
    """All tasks."""
    mesh = make_mesh()
    _, params = load_model(folder / "model", mesh=mesh)
    state = initial_state(params, ["vision"], optax.adamw(1e-3), mesh)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, state)
    for task in tasks:
        what, name = task.split(":")
        place = Position({"iterator": {"next_index": 7}} if what == "save" else {})
        with Checkpointer(folder / name, keep=1) as checkpointer:
            if what == "save":
                state = jax.jit(learnt, out_shardings=shardings)(state)
                checkpointer.save(STEP, state, place)
            else:
                state = checkpointer.restore(STEP, abstract_state(state), place)
                assert jax.tree.map(lambda leaf: leaf.sharding, state) == shardings
        told = {**digests(state), "place": place.place}
        if processes.is_first():
            path = folder / f"{what}-{name}-{jax.process_count()}.json"
            path.write_text(json.dumps(told))


if __name__ == "__main__":
    address, count, index = sys.argv[3], int(sys.argv[4]), int(sys.argv[5])
    if count > 1:
        processes.initialize(address, count, index)
    with processes.together():
        main(Path(sys.argv[1]), sys.argv[2].split(","))
