"""The losses against a second implementation, in value and gradient, and their invariances."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lrt_jax.config import LossConfig
from lrt_jax.rl import losses
from tests.rl.reference_grpo import reference_loss

ROWS, WIDTH, MAX_LENGTH = 6, 7, 9
LENGTHS = (7, 4, 1, 5, 0, 6)  # full, ragged, one token, none at all
FIELDS = ("new_logps", "old_logps", "ref_logps", "advantages", "mask")
COMBINATIONS = list(
    itertools.product(
        losses.LOSS_TYPES, losses.IMPORTANCE_LEVELS, (0.0, 0.3), (None, 0.5), (None, 1.6)
    )
)


@pytest.fixture(scope="module")
def batch():
    """Ratios between about 0.2 and 6, advantages of both signs and one of zero."""
    rng = np.random.default_rng(3)
    new = rng.normal(-1.5, 0.5, (ROWS, WIDTH)).astype(np.float32)
    shared = np.array([0.6, 0.6, -0.4, -0.4, 0.2, -0.3])[:, None]  # for ratios of whole sequences
    drift = shared + rng.normal(0, 0.5, (ROWS, WIDTH))
    return {
        "new_logps": new,
        "old_logps": (new - drift).astype(np.float32),
        "ref_logps": (new + rng.normal(0, 0.5, new.shape)).astype(np.float32),
        "advantages": np.array([1.2, -0.7, 0.9, -1.5, 0.4, 0.0], np.float32),
        "mask": (np.arange(WIDTH) < np.array(LENGTHS)[:, None]).astype(np.float32),
        "sampler_ratio": rng.uniform(0.2, 2.0, new.shape).astype(np.float32),
    }


def grpo_loss(*arrays, loss_type, **options):
    """The function under test, with the keywords of the reference."""
    fields = {field.name for field in dataclasses.fields(LossConfig)}
    config = LossConfig(loss_type, **{name: x for name, x in options.items() if name in fields})
    rest = {name: x for name, x in options.items() if name not in fields}
    arrays, rest = jax.tree.map(jnp.asarray, (arrays, rest))
    return losses.grpo_loss(*arrays, config, **{"max_completion_length": MAX_LENGTH} | rest)


def run(batch, **options):
    """(loss, gradient, metrics) of the function under test."""
    rest = [batch[name] for name in FIELDS[1:]]
    function = functools.partial(grpo_loss, **options)
    (loss, metrics), gradient = jax.value_and_grad(function, has_aux=True)(
        jnp.asarray(batch["new_logps"]), *rest
    )
    return float(loss), np.asarray(gradient), metrics


def check(batch, **options):
    loss, gradient, _ = run(batch, **options)
    options = {"max_completion_length": MAX_LENGTH, "beta": 0.0, "epsilon": 0.2} | options
    expected, expected_gradient = reference_loss(*(batch[name] for name in FIELDS), **options)
    assert loss == pytest.approx(expected, abs=1e-5)
    np.testing.assert_allclose(
        gradient, expected_gradient, atol=1e-5 * abs(expected_gradient).max()
    )


@pytest.mark.parametrize("loss_type, level, beta, epsilon_high, delta", COMBINATIONS)
def test_value_and_gradient(batch, loss_type, level, beta, epsilon_high, delta):
    check(
        batch if beta else batch | {"ref_logps": None},
        loss_type=loss_type,
        importance_sampling_level=level,
        beta=beta,
        epsilon_high=epsilon_high,
        delta=delta,
        num_items_in_batch=31,
        num_sequences=11,
    )


def test_the_batch_exercises_every_branch(batch):
    keep = batch["mask"] > 0
    log_ratio = np.where(keep, batch["new_logps"] - batch["old_logps"], 0)
    ratio = np.exp(log_ratio)
    of_sequence = np.exp(log_ratio.sum(1) / np.maximum(keep.sum(1), 1))
    for sign in (-1, 1):
        rows = np.sign(batch["advantages"]) == sign
        own = ratio[keep & rows[:, None]]
        assert (own < 0.8).any() and (own > 1.6).any() and ((own > 0.8) & (own < 1.2)).any()
        assert (of_sequence[rows] < 0.8).any() and (of_sequence[rows] > 1.6).any()


@pytest.mark.parametrize("level", losses.IMPORTANCE_LEVELS)
@pytest.mark.parametrize("loss_type", losses.LOSS_TYPES[:-1])  # cispo's weight is held constant
def test_reference_gradient_is_the_slope_of_its_value(batch, loss_type, level):
    options = dict(loss_type=loss_type, importance_sampling_level=level, beta=0.3, epsilon=0.2)
    options |= dict(delta=1.6, max_completion_length=MAX_LENGTH)
    new, *rest = (np.asarray(batch[name], np.float64) for name in FIELDS)
    slope = np.zeros_like(new)
    for place in np.ndindex(new.shape):
        step = np.zeros_like(new)
        step[place] = 1e-6
        up, down = (reference_loss(new + s, *rest, **options)[0] for s in (step, -step))
        slope[place] = (up - down) / 2e-6
    np.testing.assert_allclose(reference_loss(new, *rest, **options)[1], slope, atol=1e-8)


@pytest.mark.parametrize("level", losses.IMPORTANCE_LEVELS)
@pytest.mark.parametrize("loss_type", losses.LOSS_TYPES)
def test_defaults_jitted_and_sampler_ratio(batch, loss_type, level):
    options = dict(loss_type=loss_type, importance_sampling_level=level, beta=0.3)
    options |= dict(sampler_ratio=batch["sampler_ratio"])
    check(batch, **options)
    loss, gradient, _ = run(batch, **options)
    jitted = jax.jit(lambda arrays: run_arrays(arrays, **options))
    value, slope = jitted({name: jnp.asarray(batch[name]) for name in FIELDS})
    np.testing.assert_allclose(value, loss, atol=1e-6)
    np.testing.assert_allclose(slope, gradient, atol=1e-6)


def run_arrays(batch, **options):
    function = functools.partial(grpo_loss, **options)
    (loss, _), gradient = jax.value_and_grad(function, has_aux=True)(*(batch[n] for n in FIELDS))
    return loss, gradient


@pytest.mark.parametrize("loss_type", losses.LOSS_TYPES)
@pytest.mark.parametrize("epsilon, delta", [(0.2, None), (0.0, 1.0)])
def test_on_policy_old_logps_are_the_detached_new_ones(batch, loss_type, epsilon, delta):
    options = dict(loss_type=loss_type, epsilon=epsilon, delta=delta, epsilon_high=2.0)
    given = run(batch | {"old_logps": batch["new_logps"]}, **options)
    absent = run(batch | {"old_logps": None}, **options)
    assert given[0] == absent[0]
    np.testing.assert_array_equal(given[1], absent[1])
    check(batch | {"old_logps": None}, **options)
    assert np.abs(absent[1]).max() > 0


@pytest.mark.parametrize("level", losses.IMPORTANCE_LEVELS)
@pytest.mark.parametrize("loss_type", losses.LOSS_TYPES)
def test_what_lies_under_the_mask_has_no_influence(batch, loss_type, level):
    options = dict(loss_type=loss_type, importance_sampling_level=level, beta=0.3)
    options |= dict(sampler_ratio=batch["sampler_ratio"])
    loss, gradient, metrics = run(batch, **options)
    hidden = batch["mask"] == 0
    garbage = np.random.default_rng(1).choice([np.nan, np.inf, -np.inf, -1e4], hidden.shape)
    dirty = {
        name: np.where(hidden, np.roll(garbage, i), batch[name]).astype(np.float32)
        for i, name in enumerate(("new_logps", "old_logps", "ref_logps", "sampler_ratio"))
    }
    dirty = batch | dirty
    options |= dict(sampler_ratio=dirty["sampler_ratio"])
    again, gradient_again, metrics_again = run(dirty | {"mask": batch["mask"] > 0}, **options)
    assert again == loss
    np.testing.assert_array_equal(gradient_again, gradient)
    assert (gradient[hidden] == 0).all()
    assert jax.tree.map(float, metrics_again) == jax.tree.map(float, metrics)


def microbatches(batch, cuts):
    """The batch cut between rows, each piece padded less where it can be."""
    for rows in np.split(np.arange(ROWS), cuts):
        width = max(1, int(batch["mask"][rows].sum(1).max()))
        yield {k: v[rows, :width] if v.ndim == 2 else v[rows] for k, v in batch.items()}


@pytest.mark.parametrize("cuts", [(3,), (1, 2)])
@pytest.mark.parametrize("level", losses.IMPORTANCE_LEVELS)
@pytest.mark.parametrize("loss_type", ["grpo", "dr_grpo", "dapo", "cispo"])
def test_loss_and_gradient_of_a_batch_are_the_sum_over_its_microbatches(
    batch, loss_type, level, cuts
):
    options = dict(loss_type=loss_type, importance_sampling_level=level, beta=0.3)
    whole = run(batch, **options)
    options |= dict(num_items_in_batch=int(batch["mask"].sum()), num_sequences=ROWS)
    parts = [run(part, **options) for part in microbatches(batch, cuts)]
    assert sum(p[0] for p in parts) == pytest.approx(whole[0], abs=1e-6)
    padded = [np.pad(p[1], ((0, 0), (0, WIDTH - p[1].shape[1]))) for p in parts]
    np.testing.assert_allclose(np.concatenate(padded), whole[1], atol=1e-7)
    sums = jax.tree.map(lambda *x: float(sum(x)), *(p[2] for p in parts))
    assert sums == pytest.approx(jax.tree.map(float, whole[2]), rel=1e-5)


def test_bnpo_divides_by_the_tokens_of_its_own_call(batch):
    parts = list(microbatches(batch, (3,)))
    tokens = [part["mask"].sum() for part in parts]
    whole = run(batch, loss_type="bnpo")[0]
    values = [run(part, loss_type="bnpo")[0] for part in parts]
    assert np.average(values, weights=tokens) == pytest.approx(whole, abs=1e-6)
    assert np.mean(values) != pytest.approx(whole, abs=1e-3)


@pytest.mark.parametrize("level", losses.IMPORTANCE_LEVELS)
def test_metrics_are_sums_over_tokens_or_sequences(batch, level):
    sums = run(batch, loss_type="grpo", importance_sampling_level=level, beta=0.3)[2]
    keep, sign = batch["mask"] > 0, np.sign(batch["advantages"])[:, None]
    log_ratio = np.where(keep, batch["new_logps"] - batch["old_logps"], 0)
    if level == "sequence":
        log_ratio = log_ratio.sum(1, keepdims=True) / np.maximum(keep.sum(1, keepdims=True), 1)
    counted = keep if level == "token" else keep.any(1, keepdims=True)
    ratio = np.exp(log_ratio)
    difference = (batch["ref_logps"] - batch["new_logps"])[keep]
    expected = {
        "sequences": 5,
        "tokens": 23,
        "ratios": counted.sum(),
        "ratio": ratio[counted].sum(),
        "clip_low": ((ratio < 0.8) & (sign < 0))[counted].sum(),
        "clip_high": ((ratio > 1.2) & (sign > 0))[counted].sum(),
        "kl": (np.exp(difference) - difference - 1).sum(),
    }
    assert jax.tree.map(float, sums) == pytest.approx(expected, rel=1e-5)
    means = losses.mean_metrics(sums)
    assert float(means["completion_length"]) == pytest.approx(23 / 5)
    assert float(means["kl"]) == pytest.approx(expected["kl"] / 23, rel=1e-5)
    share = expected["clip_high"] / expected["ratios"]
    assert float(means["clip_share_high"]) == pytest.approx(share)


def test_cispo_counts_capped_ratios_of_either_sign(batch):
    sums = run(batch, loss_type="cispo", epsilon_high=1.5)[2]
    keep = (batch["mask"] > 0) & (batch["advantages"] != 0)[:, None]
    capped = np.exp(batch["new_logps"] - batch["old_logps"])[keep] > 1.5
    assert float(sums["clip_high"]) == capped.sum() > 0
    assert float(sums["clip_low"]) == 0


def test_without_a_reference_there_is_no_kl(batch):
    sums = run(batch | {"ref_logps": None}, loss_type="grpo")[2]
    assert "kl" not in sums and "kl" not in losses.mean_metrics(sums)


@pytest.mark.parametrize("loss_type", losses.LOSS_TYPES)
def test_a_batch_without_tokens_costs_nothing(batch, loss_type):
    empty = batch | {"mask": np.zeros((ROWS, WIDTH), np.float32)}
    loss, gradient, sums = run(empty, loss_type=loss_type, beta=0.3)
    assert loss == 0 and (gradient == 0).all()
    assert all(np.isfinite(float(v)) for v in losses.mean_metrics(sums).values())


@pytest.mark.parametrize(
    "options, words",
    [
        (dict(loss_type="ppo"), "dr_grpo"),
        (dict(loss_type="grpo", importance_sampling_level="word"), "sequence"),
        (dict(loss_type="grpo", beta=0.1), "ref_logps"),
    ],
)
def test_wrong_options_are_told(batch, options, words):
    with pytest.raises(ValueError, match=words):
        run(batch | {"ref_logps": None}, **options)
