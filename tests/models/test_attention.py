"""All kernels are plain attention, values and gradients; windows cost what they hold."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lrt_jax.models.attention import GroupSizes, KeyValues, attention_for
from lrt_jax.models.attention.cudnn import CuDNN
from lrt_jax.models.attention.splash import Splash
from lrt_jax.models.attention.xla import XLA, segment_attention, window_attention

KERNELS = {
    "xla": XLA(),
    "splash": Splash(interpret=True),
    "cudnn": CuDNN(implementation="xla"),  # its operands and masks, on any platform
}
HEADS, KV_HEADS, WIDTH = 4, 2, 24


def normal(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


def keys_values(seed, *shape) -> KeyValues:
    return KeyValues(*(normal(seed + i, *shape, KV_HEADS, WIDTH) for i in range(2)))


def plain(queries, keys, values, seen):
    """Attention of [t h k] to [s n k] where [t s] is True, in as few words as it can be said."""
    keys, values = (jnp.repeat(x, queries.shape[1] // x.shape[1], axis=1) for x in (keys, values))
    logits = jnp.einsum("thk,shk->hts", queries, keys) / np.sqrt(queries.shape[-1])
    weights = jax.nn.softmax(jnp.where(seen, logits, -jnp.inf), axis=-1)
    return jnp.einsum("hts,shk->thk", weights, values)


def agree(function, wanted, *args):
    """Outputs, and the gradient of their weighted sum, of each argument."""

    def graded(function):
        def weighted(*args):
            out = function(*args)
            return jnp.sum(out * normal(99, *out.shape)), out

        every = tuple(range(len(args)))
        (_, out), grads = jax.jit(jax.value_and_grad(weighted, every, has_aux=True))(*args)
        return out, *jax.tree.leaves(grads)

    for got, reference in zip(graded(function), graded(wanted), strict=True):
        np.testing.assert_allclose(got, reference, atol=1e-5 * np.abs(reference).max(), rtol=0)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("time", [5, 150])  # within a block, and over two
def test_causal(kernel, time):
    def wanted(queries, cache):
        alone = jax.vmap(plain, in_axes=(0, 0, 0, None))
        return alone(queries, cache.keys, cache.values, np.tri(time, dtype=bool))

    queries, cache = normal(0, 2, time, HEADS, WIDTH), keys_values(1, 2, time)
    agree(KERNELS[kernel].causal, wanted, queries, cache)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("time", [5, 150])
def test_groups_of_ragged_prefixes(kernel, time):
    sizes, length = GroupSizes(prefix=11, group=3, suffix=time), np.array([11, 4])
    tokens = sizes.prefix + sizes.group * time
    seen = np.zeros((2, tokens, tokens), bool)
    for b, n in enumerate(length):
        seen[b, : sizes.prefix, : sizes.prefix] = np.tri(sizes.prefix)
        for start in range(sizes.prefix, tokens, time):
            seen[b, start : start + time, :n] = True
            seen[b, start : start + time, start : start + time] = np.tri(time)
    real = np.arange(tokens) >= sizes.prefix
    real = (real | (np.arange(tokens) < length[:, None]))[..., None, None]

    def wanted(queries, cache):
        return jnp.where(real, jax.vmap(plain)(queries, cache.keys, cache.values, seen), 0.0)

    def got(queries, cache):
        out = KERNELS[kernel].group(queries, cache, jnp.asarray(length), sizes)
        return jnp.where(real, out, 0.0)

    agree(got, wanted, normal(0, 2, tokens, HEADS, WIDTH), keys_values(1, 2, tokens))


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("full", [True, False])
def test_patches_of_windows_and_of_images(kernel, full):
    sizes = [16, 3, 16, 16, 5, 1, 16, 7]  # windows that start and end anywhere
    window = np.full((2, 96), -1, np.int32)
    window[0, : sum(sizes)] = np.repeat(np.arange(len(sizes)), sizes)
    window[1, :32] = np.repeat([0, 1], 16)
    image = np.minimum(window, 0) if full else window
    real = (window >= 0)[..., None, None]

    def wanted(q, k, v):
        seen = image[:, :, None] == image[:, None, :]
        return jnp.where(real, jax.vmap(plain)(q, k, v, seen), 0.0)

    def got(q, k, v):
        kernels = KERNELS[kernel]
        out = kernels.patches(q, k, v, jnp.asarray(window), jnp.bool_(full), 16)
        return jnp.where(real, out, 0.0)

    agree(got, wanted, *(normal(i, 2, 96, HEADS, WIDTH) for i in range(3)))


@pytest.mark.parametrize("kernel", KERNELS)
def test_bfloat16_is_rounded_once(kernel):
    """The softmax is in float32: what differs is the rounding of operands and of the result."""
    queries, cache = normal(0, 1, 150, HEADS, WIDTH), keys_values(1, 1, 150)
    queries, cache = jax.tree.map(lambda x: x.astype(jnp.bfloat16), (queries, cache))
    got = KERNELS[kernel].causal(queries, cache)
    high = jax.tree.map(lambda x: x.astype(jnp.float32), (queries, cache))
    wanted = XLA().causal(*high)
    assert got.dtype == jnp.bfloat16
    np.testing.assert_allclose(got.astype(jnp.float32), wanted, atol=0.02)


def test_kernels_are_those_of_the_platform():
    chosen = {
        ("auto", "cpu", "bfloat16"): XLA(),
        ("auto", "tpu", "float32"): Splash(),
        ("auto", "gpu", "bfloat16"): CuDNN(),
        ("auto", "gpu", "float32"): XLA(),  # which cuDNN's kernels do not know
        ("xla", "tpu", "bfloat16"): XLA(),
        ("splash", "tpu", "bfloat16"): Splash(),
    }
    for asked, wanted in chosen.items():
        assert attention_for(*asked) == wanted, asked


@pytest.mark.parametrize("platform", ["cpu", "gpu"])
def test_splash_without_a_tpu_is_refused(platform):
    """It would run in an interpreter, which is for tests."""
    with pytest.raises(ValueError, match=f"model.attention: splash needs a TPU, .* is {platform}"):
        attention_for("splash", platform)


@pytest.mark.parametrize("platform, dtype", [("cpu", "bfloat16"), ("gpu", "float32")])
def test_cudnn_without_its_devices_or_dtype_is_refused(platform, dtype):
    message = f"model.attention: cudnn needs an NVIDIA GPU .* here are {platform} and {dtype}"
    with pytest.raises(ValueError, match=message):
        attention_for("cudnn", platform, dtype)


def test_windows_cost_grows_linearly():
    def flops(patches):
        args = [jax.ShapeDtypeStruct((1, patches, 2, 8), jnp.float32)] * 3
        segment = jax.ShapeDtypeStruct((1, patches), jnp.int32)
        run = jax.jit(lambda *a: window_attention(*a, window=16))
        return run.lower(*args, segment).compile().cost_analysis()["flops"]

    assert flops(1024) == pytest.approx(4 * flops(256), rel=0.01)


def test_windows_need_whole_chunks():
    x = normal(0, 1, 24, 1, 4)
    with pytest.raises(ValueError, match="24 patches are not a multiple of the window of 16"):
        window_attention(x, x, x, jnp.zeros((1, 24), jnp.int32), window=16)


def test_padding_among_patches_is_finite():
    x, nobody = normal(0, 1, 32, 1, 4), jnp.full((1, 32), -1)
    assert np.isfinite(segment_attention(x, x, x, nobody)).all()
    assert np.isfinite(window_attention(x, x, x, nobody, window=16)).all()
