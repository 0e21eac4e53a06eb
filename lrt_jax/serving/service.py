"""The model that a server asks, from its opening to its end."""

import asyncio
import contextlib
import logging
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from lrt_jax.inference.reward_model import RewardModel
from lrt_jax.serving.limits import Limits, Refused

logger = logging.getLogger(__name__)

BATCHES = 4  # that threads may ask for at the same time
THREADS = 64  # at least: a ranking has one until its last comparison, whatever others ask for

Answer = TypeVar("Answer")


class Service:
    """Opens a model in the background, and asks it in threads that share batches.

    Args:
      open_model: gives the model; what it compiles for `limits.votes` is compiled then.
      limits: of calls.
      wait: seconds that a comparison may wait for others to fill its batch.

    Attributes:
      limits: of calls.
      failure: why the model could not be opened; None while nothing is wrong.
    """

    def __init__(
        self, open_model: Callable[[], RewardModel], limits: Limits, *, wait: float = 0.005
    ):
        self.limits, self.failure = limits, None
        self._open_model, self._wait = open_model, wait
        self._model: RewardModel | None = None
        self._pool: ThreadPoolExecutor | None = None
        self._calls = 0

    @property
    def ready(self) -> bool:
        """Whether calls are answered."""
        return self._model is not None

    @contextlib.asynccontextmanager
    async def opened(self, on_failure: Callable[[], None]) -> AsyncIterator[None]:
        """While it is open, the service answers, once the model is compiled.

        Args:
          on_failure: called in a thread where the model cannot be opened.
        """
        closing = threading.Event()
        thread = threading.Thread(target=self._run, args=(closing, on_failure), daemon=True)
        thread.start()
        try:
            yield
        finally:
            closing.set()
            if self.ready:  # else it compiles, and nobody waits for that
                await asyncio.to_thread(thread.join)

    @contextlib.contextmanager
    def admitted(self) -> Iterator[None]:
        """A call that is being answered.

        Raises:
          Refused: the model is not ready, or there are too many.
        """
        if not self.ready:
            raise Refused(503, "the model is not ready yet; GET /health tells when it is")
        if self._calls >= self.limits.calls:
            raise Refused(503, f"{self._calls} calls wait already (--max_calls); try again later")
        self._calls += 1
        try:
            yield
        finally:
            self._calls -= 1

    async def ask(self, question: Callable[[RewardModel], Answer]) -> Answer:
        """What a question, which is asked in a thread, gets from the model."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, question, self._model)

    def _run(self, closing: threading.Event, on_failure: Callable[[], None]) -> None:
        """Holds the model open until it is time to close."""
        try:
            model = self._open_model()
            for votes in self.limits.votes:
                model.warm_up(votes=votes)
            images = max(self.limits.images, 8 * model.batch_size)
            threads = ThreadPoolExecutor(max(THREADS, BATCHES * model.batch_size), "call")
            with model.shared(wait=self._wait, images=images) as shared, threads as self._pool:
                self._model = shared
                logger.info("ready")
                closing.wait()
        except Exception as error:
            self.failure = error
            on_failure()
