"""Log-probabilities and entropies against NumPy, in whatever pieces they are computed."""

import types

import jax
import numpy as np
import pytest

from lrt_jax.models import VisionLanguageModel
from lrt_jax.rl import logprobs
from lrt_jax.rl.rollout import SamplingConfig

BANNED, VOCABULARY, TEMPERATURE = (1, 4), 6, 0.5


class Doubling(VisionLanguageModel):
    """Its logits are its hidden states, times 2."""

    config = types.SimpleNamespace(banned_token_ids=BANNED)
    dtype, rows = np.float32, None

    def apply(self, variables, function, *rows, method):
        assert method == "with_head"
        return function(lambda hidden: 2.0 * hidden, *rows)


@pytest.fixture
def case():
    rng = np.random.default_rng(0)
    hidden = rng.normal(size=(2, 3, 5, VOCABULARY)).astype(np.float32)
    tokens = rng.choice([0, 2, 3, 5], size=(2, 3, 5)).astype(np.int32)
    return Doubling(), hidden, tokens


def by_hand(hidden, tokens):
    logits = 2.0 * hidden.astype(np.float64) / TEMPERATURE
    logits[..., BANNED] = -np.inf
    probabilities = np.exp(logits - logits.max(-1, keepdims=True))
    probabilities /= probabilities.sum(-1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        entropy = -np.nansum(probabilities * np.log(probabilities), axis=-1)
    chosen = np.take_along_axis(probabilities, tokens[..., None], axis=-1)[..., 0]
    return np.log(chosen), entropy


@pytest.mark.parametrize("chunk", [1, 2, 3, 5, 64])
def test_values_do_not_depend_on_the_pieces(case, chunk):
    model, hidden, tokens = case
    options = {"temperature": TEMPERATURE, "chunk": chunk}
    logps, entropy = jax.jit(lambda h, t: logprobs.token_logps(model, {}, h, t, **options))(
        hidden, tokens
    )
    wanted = by_hand(hidden, tokens)
    np.testing.assert_allclose(logps, wanted[0], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(entropy, wanted[1], rtol=1e-4, atol=1e-5)


def test_what_is_not_said_of_sampling_is_the_models_own_distribution():
    sampling = SamplingConfig(max_tokens=4, stop_ids=(0,))
    assert (sampling.temperature, sampling.top_p, sampling.greedy_members) == (1.0, 1.0, 0)
    assert not sampling.greedy and sampling.logp_temperature == 1.0
    cold = SamplingConfig(max_tokens=4, stop_ids=(0,), temperature=0.0)
    assert cold.greedy and cold.logp_temperature == 1.0
    assert SamplingConfig(max_tokens=4, stop_ids=(0,), temperature=0.7).logp_temperature == 0.7
