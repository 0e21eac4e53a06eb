"""Many threads at one reader: full batches of equal shape, everybody's own answer, no stuck one."""

import concurrent.futures
import threading
import time
import types

import pytest

from lrt_jax.inference.shared_reader import BatchError, SharedReader


class Doubling:
    """In the place of a `Reader`; a request is a number and a shape. Answers when it may."""

    batch_size = 4

    def __init__(self):
        self.batches: list[list[int]] = []
        self.forced: list[bool] = []
        self.may_answer, self.begun = threading.Event(), threading.Event()

    def feature_cache(self, capacity):
        return None

    def read(self, requests, images, *, force=False):
        self.forced.append(force)
        self.begun.set()
        assert self.may_answer.wait(30)
        self.batches.append([x.number for x in requests])
        if any(x.number < 0 for x in requests):
            raise FloatingPointError("negative")
        return [2 * x.number for x in requests]


def until(condition) -> None:
    """Waits for threads to come so far."""
    ended = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < ended
        time.sleep(0.001)


def asked(number: int, shape: str = "a") -> types.SimpleNamespace:
    return types.SimpleNamespace(number=number, shape=shape)


@pytest.fixture
def reader():
    return Doubling()


def test_what_comes_while_a_batch_is_read_shares_the_next_ones(reader):
    with SharedReader(reader, 0.0, 8) as shared, concurrent.futures.ThreadPoolExecutor(9) as pool:
        first = pool.submit(shared.read, [asked(0)])
        assert reader.begun.wait(30)
        others = [pool.submit(shared.read, [asked(i)]) for i in range(1, 9)]
        until(lambda: len(shared._waiting) == 8)
        reader.may_answer.set()
        assert [x.result() for x in [first, *others]] == [[2 * i] for i in range(9)]
    assert [len(batch) for batch in reader.batches] == [1, 4, 4]
    assert shared.sizes == {1: 1, 4: 2}


def test_who_waited_longest_comes_first_and_only_equal_shapes_share_a_batch(reader):
    with SharedReader(reader, 0.0, 8) as shared, concurrent.futures.ThreadPoolExecutor(2) as pool:
        pool.submit(shared.read, [asked(0)])
        assert reader.begun.wait(30)
        mixed = [asked(i, shape) for i, shape in enumerate("babab", start=1)]
        answers = pool.submit(shared.read, mixed)
        until(lambda: len(shared._waiting) == 5)
        reader.may_answer.set()
        assert answers.result() == [2, 4, 6, 8, 10]
    assert reader.batches == [[0], [1, 3, 5], [2, 4]]


def test_a_request_waits_for_others_but_not_for_long(reader):
    reader.may_answer.set()
    with SharedReader(reader, 30.0, 8) as shared, concurrent.futures.ThreadPoolExecutor(4) as pool:
        answers = [pool.submit(shared.read, [asked(i)]) for i in range(4)]
        assert [x.result(10) for x in answers] == [[0], [2], [4], [6]]
    assert len(reader.batches) == 1
    with SharedReader(reader, 0.01, 8) as shared:
        assert shared.read([asked(7)]) == [14]


def test_what_is_forced_shares_no_batch_with_what_is_not(reader):
    with SharedReader(reader, 0.0, 8) as shared, concurrent.futures.ThreadPoolExecutor(3) as pool:
        pool.submit(shared.read, [asked(0)])
        assert reader.begun.wait(30)
        forced = pool.submit(shared.read, [asked(1)], force=True)
        until(lambda: len(shared._waiting) == 1)
        free = pool.submit(shared.read, [asked(2)])
        until(lambda: len(shared._waiting) == 2)
        reader.may_answer.set()
        assert forced.result(10) + free.result(10) == [2, 4]
    assert (reader.batches, reader.forced) == ([[0], [1], [2]], [False, True, False])


def test_a_batch_that_fails_fails_alone(reader):
    reader.may_answer.set()
    with SharedReader(reader, 0.0, 8) as shared:
        with pytest.raises(BatchError, match="FloatingPointError: negative"):
            shared.read([asked(-1)])
        assert shared.read([asked(1)]) == [2]


def test_closing_answers_those_who_wait_and_refuses_others(reader):
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        with SharedReader(reader, 30.0, 8) as shared:
            answer = pool.submit(shared.read, [asked(1)])
            until(lambda: shared._waiting)
            reader.may_answer.set()
        assert answer.result(10) == [2]
        with pytest.raises(BatchError, match="closed"):
            shared.read([asked(1)])
