"""Counted FLOPs against those that XLA finds in the very functions, unrolled and unmasked."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from lrt_jax.models import BoundModel, abstract_params
from lrt_jax.models.families import family
from lrt_jax.models.qwen2_5_vl.published import PUBLISHED
from lrt_jax.parallel.mesh import one_device_mesh
from lrt_jax.rl.tracing import Trace, traced_batch
from tests.planning.sizes import ONE_LAYER

# One pair, since a loop over pairs stands in a program once.
PAIRS, GROUP, PROMPT, TIME, PATCHES = 1, 4, 32, 48, 64
COUNTER = family(ONE_LAYER).flops(ONE_LAYER)


def found_by_xla(function, *arguments) -> float:
    return jax.jit(function).lower(*arguments).cost_analysis()["flops"]


@pytest.fixture
def model():
    return family(ONE_LAYER).model(ONE_LAYER, remat="none")


@pytest.fixture
def inputs(model, unchecked):
    mesh = one_device_mesh()
    params = abstract_params(model, mesh, "train", "float32")
    return params, traced_batch(Trace(mesh), ONE_LAYER, PAIRS, PATCHES, PROMPT, [])


def test_encode_images(model, inputs):
    params, batch = inputs
    encode = lambda params, images: BoundModel(model, params).encode_images(images)  # noqa: E731
    found = found_by_xla(encode, params, batch.images)
    counted = COUNTER.encode_images(2 * PAIRS, PATCHES)
    # Both branches of a layer stand in the program, of which one runs, and a window there attends
    # to itself and its neighbours.
    both = counted.products + counted.attention * (1 + 3)
    assert found == pytest.approx(both, rel=0.03)


def test_score_group(model, inputs):
    params, batch = inputs
    features = jax.ShapeDtypeStruct((PAIRS, 2 * PATCHES // 4, 64), jnp.float32)
    tokens = jax.ShapeDtypeStruct((PAIRS, GROUP, TIME), jnp.int32)

    def score(params, prompt, features, tokens):
        bound = BoundModel(model, params)
        return bound.logits(bound.score_group(prompt, features, tokens))

    found = found_by_xla(score, params, batch.prompt, features, tokens)
    counted = COUNTER.score_group(PAIRS, GROUP, PROMPT, TIME) + COUNTER.logits(tokens.size)
    # What is masked is computed all the same: of a completion all of its own tokens, and of the
    # prompt, which goes by blocks, a quarter more than half.
    causal = COUNTER.prefill(PAIRS, PROMPT).attention / 4
    causal += COUNTER.decode(PAIRS, GROUP, 0, TIME).attention
    assert found == pytest.approx(counted.total + causal, rel=0.03)


def test_decoding_counts_as_scoring_does():
    sizes = (PAIRS, GROUP, PROMPT, TIME)
    decoded = COUNTER.prefill(PAIRS, PROMPT) + COUNTER.decode(*sizes)
    scored = COUNTER.score_group(*sizes) + COUNTER.logits(PAIRS * GROUP * TIME)
    assert decoded == scored


def test_the_published_7b_counts_as_it_is_known_to():
    """By hand, for 64 pairs on 64 chips: prompt 1,280, eight completions of 768."""
    counter = family(PUBLISHED["Qwen/Qwen2.5-VL-7B-Instruct"].config).flops(
        PUBLISHED["Qwen/Qwen2.5-VL-7B-Instruct"].config
    )
    layer = 3584 * (28 + 2 * 4) * 128 + 28 * 128 * 3584 + 3 * 3584 * 18944
    counted = counter.score_group(64, 8, 1280, 768)
    assert counted.products == 2 * 28 * layer * 64 * (1280 + 8 * 768)
    attended = 1280 * 640 + 8 * 768 * (1280 + 384)
    assert counted.attention == 4 * 28 * 128 * 28 * 64 * attended
    assert counter.logits(10).total == 2 * 10 * 152_064 * 3584
    assert counter.cache_values(1, 0, 1, 0) == 2 * 28 * 4 * 128


def test_windows_cost_less_than_full_attention():
    config = PUBLISHED["Qwen/Qwen2.5-VL-3B-Instruct"].config
    vision = dataclasses.replace(config.vision, full_attention_layers=())
    windows = family(config).flops(dataclasses.replace(config, vision=vision))
    full = family(config).flops(config)
    less = full.encode_images(1, 1024).attention - windows.encode_images(1, 1024).attention
    assert less == 4 * 1024 * 1280 * 4 * (1024 - 64)
