"""Which checkpoints stay, and what is said where a bucket refuses them."""

import jax.numpy as jnp
import pytest

from lrt_jax.bucket import BucketError
from lrt_jax.training.checkpoint import Checkpointer, abstract
from lrt_jax.training.state import TrainState
from tests.storage import READ, WRITTEN


class Place:
    """A loader, as far as a checkpoint knows one."""

    def get_state(self):
        return {}


@pytest.fixture
def state():
    return TrainState(step=jnp.int32(0), trainable={"x": jnp.zeros(2)}, frozen={}, opt_state=())


def test_the_last_and_the_best_stay(tmp_path, state):
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


@pytest.fixture
def home(things, tmp_path) -> str:
    """A workdir in a bucket, of which no library remembers anything."""
    return f"gs://things/{tmp_path.name}"


# gcsfs writes and reads metadata and data's place, tensorstore arrays: each has errors of its own.
@pytest.mark.parametrize("file", ["/data/metadata", "/d/", "/commit_success.txt"])
def test_a_bucket_that_may_not_be_written(things, state, home, file):
    things.refuses = lambda what, _, name: 403 if what == WRITTEN and file in name else None
    told = f"{home}/checkpoints: cannot be written .*gcloud auth application-default login"
    with (
        pytest.raises(BucketError, match=told) as raised,
        Checkpointer(home, 2) as checkpointer,
    ):
        checkpointer.save(1, state, Place())
        checkpointer.wait()
    assert len(str(raised.value)) < 600


@pytest.mark.parametrize("file", ["/data/metadata", "/d/", "/manifest.ocdbt"])
def test_a_bucket_that_may_not_be_read_is_no_reason_to_remove_it(things, state, home, file):
    with Checkpointer(home, 2) as checkpointer:
        checkpointer.save(1, state, Place())
    things.refuses = lambda what, _, name: 403 if what == READ and file in name else None
    with Checkpointer(home, 2) as checkpointer:
        with pytest.raises(BucketError, match=f"{home}/checkpoints/1: cannot be read") as raised:
            checkpointer.restore(1, abstract(state), Place())
        assert "remove" not in str(raised.value)
