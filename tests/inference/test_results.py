"""What is made of readings: exact under a swap, and undefined where it has to be."""

import math

import numpy as np
import pytest

from lrt_jax.data.schema import Prompt
from lrt_jax.inference.batching import in_batches
from lrt_jax.inference.requests import Request, ShownImage
from lrt_jax.inference.results import ONE, Reading, compared, contradicts, mean, quantised
from tests.inference.stub import StubReader

TOKENS = np.zeros(4, np.int32)
PROMPT = Prompt(TOKENS, np.zeros((3, 4), np.int32), TOKENS, np.int32(4))
PAIRS = 10_000


def request(first: int, second: int, votes: int = 1) -> Request:
    images = tuple(ShownImage(bytes([*divmod(x, 256)]), (1, 1), None) for x in (first, second))
    return Request(images, ((PROMPT,), (PROMPT,)), votes, first * second)


def readings(*probabilities: float, swapped: bool = False) -> list[Reading]:
    return [Reading(swapped, "", quantised(p), p > 0.5) for p in probabilities]


@pytest.mark.parametrize("votes", [1, 3])
def test_ten_thousand_swaps_are_exact(votes):
    pairs = np.random.default_rng(votes).integers(0, 2**16, (PAIRS, 2)).tolist()
    given = in_batches((request(a, b, votes) for a, b in pairs), StubReader(64).read, 64)
    swapped = in_batches((request(b, a, votes) for a, b in pairs), StubReader(64).read, 64)
    found = [(a.probability, b.probability) for a, b in zip(given, swapped, strict=True)]
    assert len(found) == PAIRS
    assert all(one == 1 - other and other == 1 - one for one, other in found)
    assert all(p * ONE == int(p * ONE) for p, _ in found)
    assert np.std(found) > 0.05


@pytest.mark.parametrize("votes", [1, 3])
def test_an_image_and_itself_are_at_one_half_exactly(votes):
    results = in_batches((request(x, x, votes) for x in range(500)), StubReader(64).read, 64)
    assert {result.probability for result in results} == {0.5}


def test_everything_but_the_sign_is_the_same_under_a_swap():
    one, other = (StubReader().read([request(a, b, 5)])[0] for a, b in ((3, 8), (8, 3)))
    assert one.standard_error == other.standard_error > 0
    assert one.agreement == other.agreement and one.contradiction == other.contradiction
    assert one.listener_probability == 1 - other.listener_probability


def test_probability_is_the_mean_of_all_readings_in_the_order_given():
    result = compared(readings(0.75, 0.5), readings(0.25, 0.75, swapped=True))
    assert result.probability == 0.5625
    assert compared(readings(0.7, 0.6), readings(0.4, 0.9, swapped=True)).agreement == 0.5


def test_standard_error_is_that_of_the_votes():
    given, swapped = np.random.default_rng(0).random((2, 6))
    result = compared(readings(*given), readings(*swapped, swapped=True))
    votes = (given + swapped) / 2
    np.testing.assert_allclose(result.standard_error, votes.std(ddof=1) / math.sqrt(6), rtol=1e-8)
    assert compared(readings(0.7), readings(0.7, swapped=True)).standard_error is None


@pytest.mark.parametrize("values", [[1 / ONE, 0.0, 0.0], [1 / ONE, 0.0], [3 / ONE, 0.0]])
def test_a_mean_between_two_multiples_is_rounded_alike_for_both_images(values):
    assert mean(values) == 1 - mean([1 - x for x in values])


@pytest.mark.parametrize(
    "listener, own, expected",
    [(0.9, 0.2, True), (0.9, 0.8, False), (None, 0.8, None), (0.5, 0.8, None), (0.8, 0.5, None)],
)
def test_contradiction(listener, own, expected):
    assert contradicts(listener, own) is expected
