"""Many requests, as they come, in few batches of equal shape; answers in the order of requests."""

from collections.abc import Callable, Iterable, Iterator, Sequence

from lrt_jax.inference.requests import Request
from lrt_jax.inference.results import Comparison

WINDOW = 8  # batches by which a request may wait for others of its shape

Read = Callable[[Sequence[Request]], Sequence[Comparison]]


def in_batches(
    requests: Iterable[Request | Exception], read: Read, batch_size: int
) -> Iterator[Comparison | Exception]:
    """Answers requests, in their order.

    Only requests of one shape share a batch. One that has waited for `WINDOW` batches of others is
    read with those of its shape that there are.

    Args:
      requests: what to compare; errors are passed on in their place.
      read: answers at most `batch_size` requests of one shape.
      batch_size: requests of a full batch.
    """
    waiting: dict[tuple[int, ...], list[tuple[int, Request]]] = {}
    answers: dict[int, Comparison | Exception] = {}
    taken = 0

    def answer(shape: tuple[int, ...]) -> None:
        indices, batch = zip(*waiting.pop(shape), strict=True)
        answers.update(zip(indices, read(batch), strict=True))

    for index, request in enumerate(requests):
        if isinstance(request, Exception):
            answers[index] = request
        else:
            waiting.setdefault(request.shape, []).append((index, request))
            if len(waiting[request.shape]) == batch_size:
                answer(request.shape)
        if taken not in answers and index - taken >= WINDOW * batch_size:
            answer(next(shape for shape, group in waiting.items() if group[0][0] == taken))
        while taken in answers:
            yield answers.pop(taken)
            taken += 1
    for shape in list(waiting):
        answer(shape)
    yield from (answers[index] for index in sorted(answers))
