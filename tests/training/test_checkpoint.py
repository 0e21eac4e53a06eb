"""Which checkpoints stay."""

import jax.numpy as jnp

from lrt_jax.training.checkpoint import Checkpointer
from lrt_jax.training.state import TrainState


class Place:
    """A loader, as far as a checkpoint knows one."""

    def get_state(self):
        return {}


def test_the_last_and_the_best_stay(tmp_path):
    state = TrainState(step=jnp.int32(0), trainable={"x": jnp.zeros(2)}, frozen={}, opt_state=())
    with Checkpointer(tmp_path, 2, best=lambda: 2) as checkpointer:
        assert not checkpointer.behind
        for step in range(1, 7):
            checkpointer.step_done(step)
            assert checkpointer.behind
            checkpointer.save(step, state, Place())
        checkpointer.wait()
        assert not checkpointer.behind
    steps = {int(path.name) for path in (tmp_path / "checkpoints").iterdir()}
    assert steps == {2, 5, 6}
