"""Requests in batches: answers in their order, few batches, none waits for ever."""

import types

from lrt_jax.inference.batching import WINDOW, in_batches


def asked(number: int, shape: str) -> types.SimpleNamespace:
    return types.SimpleNamespace(number=number, shape=shape)


def numbers(requests) -> list[int]:
    return [request.number for request in requests]


def answers(shapes: str) -> tuple[list, list]:
    batches = []

    def read(requests):
        assert len({x.shape for x in requests}) == 1
        batches.append(numbers(requests))
        return numbers(requests)

    requests = (asked(i, shape) for i, shape in enumerate(shapes))
    return list(in_batches(requests, read, 2)), batches


def test_answers_come_in_order_and_only_equal_shapes_share_a_batch():
    found, batches = answers("abaabb")
    assert found == list(range(6))
    assert batches == [[0, 2], [1, 4], [3], [5]]


def test_an_answer_is_given_as_soon_as_it_is_known():
    taken = []

    def requests():
        for i in range(6):
            taken.append(i)
            yield asked(i, "a")

    results = in_batches(requests(), numbers, 2)
    assert next(results) == 0 and taken == [0, 1]


def test_a_rare_shape_does_not_wait_for_ever():
    found, batches = answers("b" + "a" * 4 * WINDOW)
    assert found == list(range(4 * WINDOW + 1))
    assert batches.index([0]) == WINDOW


def test_errors_keep_their_place():
    error = ValueError("bad")
    requests = [asked(0, "a"), error, asked(2, "a")]
    assert list(in_batches(requests, numbers, 2)) == [0, error, 2]
