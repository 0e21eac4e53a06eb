"""Every output of the jitted pieces lives where it is said to, and used-up state is gone."""

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from lrt_jax.algorithms.optimizer import make_optimizer
from lrt_jax.algorithms.sft import SFTBatch, Updater
from lrt_jax.config import OptimizerOptions
from lrt_jax.data.schema import Demonstrations
from lrt_jax.models import param_shardings
from lrt_jax.parallel.collectives import batch_sharding, shard_local_batch
from lrt_jax.parallel.mesh import make_mesh
from lrt_jax.rl.frozen import Reading
from lrt_jax.rl.rollout import SamplingConfig
from tests.parallel.pieces import GROUP, PAIRS, TIME, VOCABULARY, make_pieces


@pytest.fixture(scope="module")
def made():
    return make_pieces(make_mesh(fsdp=2, tensor=2))


@pytest.fixture(scope="module")
def features(made):
    return made.engine.encode_images(made.params, made.batch)[None]


def assert_lives(tree, wanted) -> None:
    """`wanted` is one sharding, or a tree of them."""
    if isinstance(wanted, NamedSharding):
        wanted = jax.tree.map(lambda _: wanted, tree)

    def check(path, leaf, sharding):
        assert leaf.sharding.is_equivalent_to(sharding, leaf.ndim), (path, leaf.sharding, sharding)

    jax.tree_util.tree_map_with_path(check, tree, wanted)


def everywhere(made) -> NamedSharding:
    return NamedSharding(made.mesh, PartitionSpec())


def test_rows_come_out_as_they_went_in(made, features):
    rows = batch_sharding(made.mesh)
    params = made.engine.sampler_params(made.params)
    assert_lives(params, param_shardings(made.model, made.mesh, "sample"))
    drawn = made.engine.sample(params, made.batch, features, GROUP, SamplingConfig(2, (7,)), 0, 1)
    experience = made.experience(features)
    answers = made.engine._frozen_pass(
        made.model,
        made.params,
        features,
        (Reading(made.batch.prompt, experience.tokens, experience.length),),
        answer_ids=(5, 6),
        temperature=1.0,
    )
    assert_lives((features, drawn, answers), rows)


def test_an_update_keeps_the_shardings_of_the_state_and_uses_it_up(made, features):
    state, updater = made.learner()
    assert_moves(made, state, updater._update, made.experience(features), np.bool_(True))
    state, _ = made.learner()
    new, metrics = updater.update(fresh(state), made.experience(features))
    assert_lives(new.step, everywhere(made))
    assert int(new.step) == 1 and np.isfinite(list(metrics.values())).all()


def test_an_update_on_lessons_does_too(made):
    state, _ = made.learner()
    shardings = jax.tree.map(lambda leaf: leaf.sharding, state)
    optimizer = make_optimizer(OptimizerOptions(), 2)
    updater = Updater(made.model, optimizer, 1, shardings)
    rng = np.random.default_rng(0)
    tokens = rng.integers(8, VOCABULARY, (PAIRS, 1, TIME)).astype(np.int32)
    demonstrations = Demonstrations(tokens, np.full((PAIRS, 1), TIME, np.int32))
    inputs = SFTBatch(
        made.batch.prompt, made.batch.images, shard_local_batch(demonstrations, made.mesh)
    )
    assert_moves(made, state, updater._update, inputs)


def fresh(state):
    """Copies, so that what the fixture holds is not used up."""
    return jax.tree.map(lambda leaf: leaf.copy(), state)


def assert_moves(made, state, update, *inputs) -> None:
    before = fresh(state)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, before)
    after, (metrics, unsound), *logps = update(before, *inputs)
    assert_lives(after, shardings)
    assert_lives((metrics, unsound), everywhere(made))
    assert_lives(logps, batch_sharding(made.mesh))
    used_up = jax.tree_util.tree_map_with_path(lambda path, leaf: leaf.is_deleted(), before)
    assert all(jax.tree.leaves(used_up)), used_up
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(inputs[0]))
