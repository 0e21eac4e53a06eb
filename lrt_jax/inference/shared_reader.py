"""Many threads at one model: what they ask for at about the same time shares batches."""

import collections
import dataclasses
import logging
import threading
from collections.abc import Sequence
from concurrent.futures import Future

from lrt_jax.inference.reader import Reader
from lrt_jax.inference.requests import Request
from lrt_jax.inference.results import Comparison

logger = logging.getLogger(__name__)


class BatchError(RuntimeError):
    """Comparisons that could not be made, through no fault of who asked."""


@dataclasses.dataclass(frozen=True, eq=False)
class _Waiting:
    request: Request
    force: bool
    answer: Future

    @property
    def shape(self) -> tuple:
        """What requests of a batch have in common."""
        return self.request.shape, self.force


class SharedReader:
    """In the place of a `Reader`, for many threads at once; a context manager.

    One thread of its own asks the models. It takes the request that has waited longest, and with it
    as many others of its shape as a batch holds; where there are fewer, it waits for more, but not
    for long.

    Args:
      reader: asks the models; nobody else may use it meanwhile.
      wait: seconds that a request may wait for others to fill its batch.
      images: of which the features are kept, those that were asked for last.

    Attributes:
      batch_size: requests of a batch.
      sizes: how many batches of each number of requests were read so far.
    """

    def __init__(self, reader: Reader, wait: float, images: int):
        self.batch_size = reader.batch_size
        self.sizes: collections.Counter[int] = collections.Counter()
        self._reader, self._wait = reader, wait
        self._images = reader.feature_cache(images)
        self._waiting: list[_Waiting] = []
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, daemon=True, name="shared reader")

    def __enter__(self) -> "SharedReader":
        self._thread.start()
        return self

    def __exit__(self, *exc) -> None:
        """Answers what still waits, and ends."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    @property
    def images_encoded(self) -> int:
        """As of `Reader`."""
        return self._reader.images_encoded

    def feature_cache(self, capacity: int = 0) -> None:
        """Calls have none of their own: they share one."""

    def read(
        self, requests: Sequence[Request], images: None = None, *, force: bool = False
    ) -> list[Comparison]:
        """Answers requests, in their order; waits until they are read.

        Args:
          requests: what to compare.
          images: of `feature_cache`.
          force: as of `Reader`.

        Raises:
          BatchError: a batch could not be read, or the reader is closed.
        """
        waiting = [_Waiting(request, force, Future()) for request in requests]
        with self._changed:
            if self._closed:
                raise BatchError("the model is closed")
            self._waiting += waiting
            self._changed.notify()
        return [each.answer.result() for each in waiting]

    def _run(self) -> None:
        while batch := self._next_batch():
            self._read(batch)

    def _next_batch(self) -> list[_Waiting]:
        """Of one shape; none when the reader is closed and nobody waits."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed)
            if self._waiting and not self._closed:
                self._changed.wait_for(self._is_full, self._wait)
            chosen = self._chosen()
            taken = set(chosen)
            self._waiting = [x for x in self._waiting if x not in taken]
            return chosen

    def _is_full(self) -> bool:
        return self._closed or len(self._chosen()) == self.batch_size

    def _chosen(self) -> list[_Waiting]:
        """Of the shape of the request that has waited longest, at most a batch."""
        alike = [x for x in self._waiting if x.shape == self._waiting[0].shape]
        return alike[: self.batch_size]

    def _read(self, batch: Sequence[_Waiting]) -> None:
        self.sizes[len(batch)] += 1
        requests, force = [x.request for x in batch], batch[0].force
        try:
            answers = self._reader.read(requests, self._images, force=force)
            answered = [*zip(batch, answers, strict=True)]
        except Exception as error:  # the next batch may be read all the same
            logger.error("a batch of comparisons failed", exc_info=error)
            told = f"comparisons could not be made ({type(error).__name__}: {error})"
            for each in batch:  # one for each thread, which adds its own traceback
                failed = BatchError(told)
                failed.__cause__ = error
                each.answer.set_exception(failed)
        else:
            for each, answer in answered:
                each.answer.set_result(answer)
