"""A pair's weight multiplies what it adds to the gradient, whichever way a model learns."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lrt_jax.algorithms import algorithm_of
from lrt_jax.algorithms.sft import SFTBatch, supervised_gradient
from lrt_jax.parallel.collectives import shard_local_batch
from lrt_jax.parallel.mesh import make_mesh
from lrt_jax.reporting.monitor import Monitor
from lrt_jax.rl.learner import policy_gradient
from lrt_jax.training import setup
from tests.training.small_run import tiny_config


@pytest.fixture(autouse=True)
def one_device(monkeypatch):
    monkeypatch.setattr(setup, "make_mesh", lambda *_: make_mesh(devices=jax.devices()[:1]))


class Differentiator:
    """Stands for an `Updater`: gives the gradient and leaves the state as it is."""

    def __init__(self, run):
        self._gradient = jax.jit(
            functools.partial(
                policy_gradient,
                run.engine.model,
                on_policy=jnp.bool_(True),
                loss=run.config.loss,
                temperature=run.config.temperature,
            )
        )

    def update(self, state, experience):
        with jax.transfer_guard("allow"):
            self.gradient = self._gradient(state.trainable, state.frozen, experience)[0]
        return state, {}


def with_weights(batch, weights):
    return batch.replace(target=batch.target.replace(weight=np.array(weights, np.float32)))


def assert_weighted(gradient):
    """`gradient` takes the weights of four pairs."""
    none = jax.tree.map(np.asarray, gradient([0, 0, 0, 0]))
    assert all(not leaf.any() for leaf in jax.tree.leaves(none))
    first, second = gradient([1, 0, 0, 0]), gradient([0, 1, 0, 0])
    assert any(np.abs(leaf).max() > 1e-6 for leaf in jax.tree.leaves(first))
    for one, other, both in zip(
        *map(jax.tree.leaves, (first, second, gradient([2, 0.5, 0, 0]))), strict=True
    ):
        expected = 2 * np.asarray(one) + 0.5 * np.asarray(other)
        np.testing.assert_allclose(both, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


def test_in_reinforcement_learning(data, tmp_path):
    config = tiny_config(data, **{"loss.beta": 0.0, "data.pair_weights": "margin"})
    run, params = setup.open_run(config, tmp_path)
    algorithm = algorithm_of(config)(run)
    state = algorithm.init(params)
    algorithm.updater = Differentiator(run)
    with run.train_loader() as batches, Monitor() as monitor:
        batch = next(batches)

        def gradient(weights):
            step = with_weights(batch, weights)
            algorithm.step(state, step, 1, monitor)
            return algorithm.updater.gradient

        assert batch.target.weight.min() < batch.target.weight.max()
        assert_weighted(gradient)


def test_in_imitation(data, tmp_path):
    config = tiny_config(data, algorithm="sft", **{"data.demonstrations": "answers"})
    run, params = setup.open_run(config, tmp_path)
    algorithm = algorithm_of(config)(run)
    state = algorithm.init(params)
    with run.train_loader(algorithm.demonstration_encoder()) as batches:
        batch = shard_local_batch(next(batches), run.engine.mesh)

    def gradient(weights):
        inputs = SFTBatch(
            batch.prompt, batch.images, batch.demonstrations, jnp.array(weights, jnp.float32)
        )
        return differentiate(state.trainable, state.frozen, inputs)[0]

    differentiate = jax.jit(functools.partial(supervised_gradient, run.engine.model))
    assert_weighted(gradient)
