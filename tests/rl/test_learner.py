"""Neither microbatches nor devices change a gradient; freezing and updates do what they say."""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lrt_jax.config import LossConfig
from lrt_jax.models import param_shardings
from lrt_jax.parallel.collectives import batch_sharding, shard_local_batch
from lrt_jax.parallel.mesh import make_mesh
from lrt_jax.rl.learner import Experience, join_frozen, policy_gradient, split_frozen
from tests.rl.recorded import record

PAIRS = 16


@pytest.fixture(scope="module")
def experience(one) -> Experience:
    """Of 16 pairs."""
    return record(one, pairs=PAIRS, group=2, time=5)


def gradient(one, experience, loss, devices=1, first=False):
    """Gradient on a mesh of so many devices, parameters sharded and replicated as in training."""
    mesh = make_mesh(devices=jax.devices()[:devices])
    params = jax.device_put(one.params, param_shardings(one.model, mesh, "train"))
    trainable, frozen = split_frozen(params, ["vision"])
    model = one.model.copy(sharding=batch_sharding(mesh))
    run = jax.jit(functools.partial(policy_gradient, model, loss=loss))
    grads, sums, logps = run(
        trainable, frozen, shard_local_batch(experience, mesh), jnp.bool_(first)
    )
    return jax.device_get((grads, sums, logps))


def assert_same_gradient(got, wanted, tolerance=1e-5):
    assert got.keys() == wanted.keys()
    for path in wanted:
        largest = np.abs(wanted[path]).max()
        assert largest > 0, path
        np.testing.assert_allclose(
            got[path], wanted[path], atol=tolerance * largest, rtol=0, err_msg=path
        )


@pytest.mark.parametrize("loss_type", ["grpo", "dr_grpo", "dapo", "cispo"])
def test_microbatches_and_devices(one, experience, loss_type):
    loss = LossConfig(loss_type, beta=0.05, epsilon_high=3.0 if loss_type == "cispo" else 0.28)
    wanted, sums, logps = gradient(one, experience, loss)
    cut = dataclasses.replace(loss, microbatches=4)
    for devices, how in ((1, cut), (4, cut)):
        got, got_sums, got_logps = gradient(one, experience, how, devices)
        assert_same_gradient(got, wanted)
        np.testing.assert_allclose(got_logps, logps, atol=1e-5)
        assert got_sums["tokens"] == sums["tokens"] == experience.length.sum()
        np.testing.assert_allclose(got_sums["loss"], sums["loss"], rtol=1e-4)


def test_microbatches_of_bfloat16_parameters_add_up_in_float32(one, experience):
    """Sixteen gradients that are rounded once: as near to their sum as bfloat16 can come."""
    parameters = split_frozen(
        jax.tree.map(lambda x: x.astype(jnp.bfloat16), one.params), ["vision"]
    )

    def gradient(experience, microbatches):
        loss = LossConfig("dr_grpo", microbatches=microbatches)
        return policy_gradient(one.model, *parameters, experience, jnp.bool_(False), loss)[0]

    gradient = jax.jit(gradient, static_argnums=1)
    got = gradient(experience, PAIRS)
    rows = [jax.tree.map(lambda x, i=i: x[i : i + 1], experience) for i in range(PAIRS)]
    alone = [gradient(row, 1) for row in rows]  # of one group, and so the mean is that of these
    for path, values in got.items():
        assert values.dtype == jnp.bfloat16
        parts = [np.asarray(part[path], np.float64) for part in alone]
        lost = np.linalg.norm(values - sum(parts) / PAIRS) / np.linalg.norm(sum(parts) / PAIRS)
        assert lost < 0.003, path  # one rounding; sixteen lose 0.006 and more


def test_first_update_takes_its_own_logps_for_the_old_ones(one, experience):
    loss = LossConfig("dapo")
    wanted, sums, logps = gradient(one, experience, loss, first=True)
    assert sums["ratio"] == pytest.approx(sums["ratios"])  # every ratio is one
    # Of the tokens alone: of all places together it would be more than can be.
    assert 0 < sums["entropy"] / sums["tokens"] < np.log(one.shape.vocab)
    own = experience.replace(old_logps=jnp.asarray(logps))
    assert_same_gradient(gradient(one, own, loss)[0], wanted)
    other, _, _ = gradient(one, experience, loss)
    path = "decoder/layers/q/kernel"
    assert np.abs(other[path] - wanted[path]).max() > 1e-3 * np.abs(wanted[path]).max()


@pytest.mark.parametrize("first", [True, False])
def test_sampler_correction_is_the_old_policys_ratio(one, experience, first):
    """In later updates too it compares the policy that sampled, not the one that is updated."""
    loss = LossConfig("dapo", importance_sampling_cap=3.0)
    plain, _, logps = gradient(one, experience, LossConfig("dapo"), first=first)
    old = logps if first else experience.old_logps
    for ratio, weight in ((0.5, 0.5), (2.0, 2.0), (20.0, 3.0)):  # the last is capped
        drawn = jnp.asarray(old - np.log(ratio).astype(np.float32))
        likely = experience.replace(sampler_logps=drawn)
        got = gradient(one, likely, loss, first=first)[0]
        assert_same_gradient({k: v / weight for k, v in got.items()}, plain)


def test_bnpo_averages_over_its_microbatches(one, experience):
    cut = LossConfig("bnpo", microbatches=2)
    halves = [jax.tree.map(lambda x, i=i: x[i::2], experience) for i in range(2)]
    parts = [gradient(one, half, LossConfig("bnpo"))[0] for half in halves]
    wanted = {path: (parts[0][path] + parts[1][path]) / 2 for path in parts[0]}
    assert_same_gradient(gradient(one, experience, cut)[0], wanted)


def test_rows_stay_on_their_devices(one, experience):
    """Weights are gathered; no device adds up the activations of the whole batch."""
    mesh = make_mesh(devices=jax.devices())
    model = one.model.copy(sharding=batch_sharding(mesh))
    params = jax.device_put(one.params, param_shardings(one.model, mesh, "train"))
    run = jax.jit(functools.partial(policy_gradient, model, loss=LossConfig("dapo")))
    args = (*split_frozen(params, ["vision"]), shard_local_batch(experience, mesh), jnp.bool_(True))
    program = run.lower(*args).compile().as_text()
    moved = re.findall(r"= f32\[([\d,]*)\]\S* (?:all-reduce|all-gather|all-to-all)\(", program)
    assert moved, "a sharded gradient without collectives cannot be right"
    assert not [shape for shape in moved if shape.split(",")[0] == str(PAIRS)], moved


def test_freezing_splits_by_path(one):
    trainable, frozen = split_frozen(one.params, ["vision/blocks"])
    assert {p.split("/")[1] for p in trainable if p.startswith("vision")} == {
        "merger",
        "patch_embed",
    }
    assert all(path.startswith("vision/blocks") for path in frozen)
    with pytest.raises(ValueError, match="'kernel' matches no parameter"):
        split_frozen(one.params, ["kernel"])  # patterns begin where paths do
    jax.tree.map(np.testing.assert_array_equal, join_frozen(trainable, frozen), one.params)


@pytest.mark.parametrize(
    "freeze, message",
    [(["vison"], "'vison' matches no parameter"), ([".*"], "leaves nothing to train")],
)
def test_freezing_that_cannot_be_meant(one, freeze, message):
    with pytest.raises(ValueError, match=message):
        split_frozen(one.params, freeze)
