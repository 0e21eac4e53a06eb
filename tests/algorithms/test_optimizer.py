"""The schedule, clipping, and what is not decayed."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lrt_jax.algorithms.optimizer import OptimizerOptions, learning_rate, make_optimizer
from lrt_jax.algorithms.state import apply_gradient, initial_state
from lrt_jax.models import matrix_axes, param_shardings
from lrt_jax.parallel.mesh import make_mesh
from lrt_jax.rl.learner import split_frozen


def rates(updates=10, **options):
    rate = learning_rate(OptimizerOptions(learning_rate=1.0, **options), updates)
    return [float(rate(step)) for step in range(updates)]


def test_warm_up_rises_to_the_peak_and_never_rests_at_zero():
    assert rates(warmup_steps=4) == pytest.approx([0.25, 0.5, 0.75, 1, 1, 1, 1, 1, 1, 1])
    assert rates(warmup_steps=1)[:2] == [1.0, 1.0]


def test_schedules_end_near_zero():
    linear = rates(schedule="linear", warmup_steps=2)
    assert linear[2] == 1.0 and linear[-1] == pytest.approx(1 / 8)
    cosine = rates(schedule="cosine")
    assert cosine[0] == 1.0 and cosine[5] == pytest.approx(0.5)
    assert all(a > b for a, b in zip(cosine, cosine[1:], strict=False))


def test_biases_and_norms_are_not_decayed():
    options = OptimizerOptions(learning_rate=0.1, weight_decay=0.5, clip_norm=None)
    optimizer = make_optimizer(options, 1)
    params = {p: jnp.ones(3) for p in ("layers/q/kernel", "layers/q/bias", "norm/scale", "head")}
    zeros = {p: jnp.zeros(3) for p in params}
    updates, _ = optimizer.update(zeros, optimizer.init(params), params)
    decayed = {path for path, update in updates.items() if np.abs(update).max() > 0}
    assert decayed == {"layers/q/kernel", "head"}


def test_clipping_bounds_the_global_norm():
    def adams_first_moment(clip_norm):
        optimizer = make_optimizer(OptimizerOptions(clip_norm=clip_norm, b1=0.0), 1)
        params = {"a": jnp.zeros(4), "b": jnp.zeros(4)}
        grads = {"a": jnp.full(4, 3.0), "b": jnp.full(4, 4.0)}
        _, state = optimizer.update(grads, optimizer.init(params), params)
        return float(optax.global_norm(optax.tree.get(state, "mu")))

    assert adams_first_moment(1.0) == pytest.approx(1.0, rel=1e-5)
    assert adams_first_moment(None) == pytest.approx(10.0, rel=1e-5)


def test_muon_moves_matrices_by_the_rate_and_the_rest_as_adamw_does():
    options = OptimizerOptions(name="muon", learning_rate=0.1, clip_norm=None, eps=1e-12)
    matrices = {"q/kernel": ((1,), (2, 3))}
    optimizer = make_optimizer(options, 1, matrices)
    shapes = {"q/kernel": (2, 6, 2, 3), "q/bias": (2, 3), "embedding": (5, 6)}
    keys = dict(zip(shapes, jax.random.split(jax.random.key(0), 3), strict=True))
    grads = {path: jax.random.normal(keys[path], shape) for path, shape in shapes.items()}
    zeros = jax.tree.map(jnp.zeros_like, grads)
    updates, _ = optimizer.update(grads, optimizer.init(zeros), zeros)
    for layer in np.asarray(updates["q/kernel"]).reshape(2, 6, 6):
        assert np.sqrt(np.mean(layer**2)) == pytest.approx(0.1, rel=0.2)
        singular = np.linalg.svd(layer, compute_uv=False)
        assert singular.max() < 2 * singular.min()  # about orthogonal, layer by layer
    for path in ("q/bias", "embedding"):
        ratio = np.asarray(
            updates[path] / np.sign(grads[path])
        )  # Adam's first step, with Nesterov momentum
        np.testing.assert_allclose(ratio, ratio.flat[0], rtol=1e-3)
        assert -0.2 < ratio.flat[0] < -0.1


def moments(opt_state, params):
    """First and second moments of all parameters: (path, which, value)."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(opt_state):
        names = [getattr(key, "key", None) for key in path]
        which = [key.name for key in path if getattr(key, "name", "") in ("mu", "nu")]
        if which:
            yield next(name for name in names if name in params), which[0], leaf


@pytest.mark.parametrize("mu_dtype", [None, "float32", "bfloat16"])
@pytest.mark.parametrize("param_dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_moments_live_with_their_parameters_and_keep_their_dtype(one, name, param_dtype, mu_dtype):
    mesh = make_mesh(fsdp=2, tensor=2)
    params = jax.tree.map(lambda x: x.astype(param_dtype), one.params)
    params = jax.device_put(params, param_shardings(one.model, mesh, "train"))
    optimizer = make_optimizer(
        OptimizerOptions(name=name, mu_dtype=mu_dtype), 10, matrix_axes(one.model)
    )
    state = initial_state(params, ["vision"], optimizer, mesh)
    trainable, _ = split_frozen(params, ["vision"])
    seen = list(moments(state.opt_state, trainable))
    assert {path for path, which, _ in seen if which == "mu"} == trainable.keys()
    for path, which, value in seen:
        assert value.sharding == trainable[path].sharding, (path, which)
        wanted = (mu_dtype if which == "mu" else None) or param_dtype
        assert value.shape == trainable[path].shape and value.dtype == wanted
    assert any("tensor" in str(x.sharding) and "fsdp" in str(x.sharding) for _, _, x in seen)
    update = functools.partial(apply_gradient, optimizer=optimizer)
    updated = jax.eval_shape(update, state, trainable)
    assert jax.tree.map(lambda x: x.dtype, updated) == jax.tree.map(lambda x: x.dtype, state)


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_a_rounded_first_moment_moves_parameters_nearly_alike(name):
    def after_five(mu_dtype):
        options = OptimizerOptions(name=name, learning_rate=0.1, mu_dtype=mu_dtype)
        optimizer = make_optimizer(options, 5, {"q": ((0,), (1,))})
        params = {"q": jnp.ones((4, 3)), "bias": jnp.ones(3)}
        state = optimizer.init(params)
        for key in jax.random.split(jax.random.key(0), 5):
            grads = jax.tree.map(lambda x, key=key: jax.random.normal(key, x.shape), params)
            updates, state = optimizer.update(grads, state, params)
            params = optax.apply_updates(params, updates)
        return params

    exact, rounded = after_five(None), after_five("bfloat16")
    for path in exact:
        np.testing.assert_allclose(rounded[path], exact[path], atol=5e-3)
        assert (rounded[path] != exact[path]).any()
