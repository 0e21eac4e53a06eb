"""Work that many threads share."""

import collections
import concurrent.futures
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any

AHEAD = 8  # calls for each thread that are begun before they are taken


def in_threads(function: Callable, arguments: Iterable[tuple]) -> Iterator[Any]:
    """`itertools.starmap` on all cores, in order, and never far ahead of what is taken."""
    threads = os.cpu_count() or 1
    pending: collections.deque[concurrent.futures.Future] = collections.deque()
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        for each in arguments:
            pending.append(pool.submit(function, *each))
            if len(pending) >= AHEAD * threads:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
