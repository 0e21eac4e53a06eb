"""A batch of experience, for tests that need no more of a step than its numbers."""

import jax.numpy as jnp
import numpy as np

from lrt_jax.models.qwen2_5_vl.hf_inputs import from_hf
from lrt_jax.rl.learner import Experience
from tests.models.calling import call
from tests.models.hf_reference import FIRST_TEXT, make_inputs


def record(one, *, pairs: int, group: int, time: int) -> Experience:
    """Ragged groups, sampled by another policy than the one that learns."""
    inputs = make_inputs([1] * pairs, one.shape, padding_side="right", seed=2)
    prompt, *images = from_hf(inputs, one.model.config)
    merged = call(one.model, one.params, "encode_patches", *images)
    # Each row its own image: the index into all images becomes one into the row's.
    room = merged.shape[1]
    own = np.where(prompt.image_index >= 0, prompt.image_index % room, -1)
    rng = np.random.default_rng(0)
    shape = (pairs, group, time)
    logps = jnp.asarray(rng.normal(-4.0, 0.3, (3, *shape)).astype(np.float32))
    return Experience(
        prompt=prompt.replace(image_index=own),
        images=None,
        features=merged,
        tokens=jnp.asarray(rng.integers(FIRST_TEXT, one.shape.vocab, shape).astype(np.int32)),
        length=jnp.asarray(rng.integers(1, time + 1, shape[:2]).astype(np.int32)),
        sampler_logps=logps[0],
        reference_logps=logps[1],
        old_logps=logps[2],
        advantages=jnp.asarray(rng.normal(size=shape[:2]).astype(np.float32)),
    )
