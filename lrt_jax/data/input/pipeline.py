"""Prepared sets to batches of NumPy arrays, for training without end and for evaluation once.

The order of a training epoch, its swaps and the position after any batch follow from the seed and
the index alone, so that a run can be resumed and repeated, whatever the number of threads. The
order is that of global batches: of `N` processes each holds the same `1/N` of every one.
"""

import contextlib
import dataclasses
import itertools
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from typing import Any, get_args

import grain
import numpy as np
from absl import flags, logging

from lrt_jax.config.choices import PairWeights
from lrt_jax.data.dataset.mixture import DataSet
from lrt_jax.data.dataset.selection import choose, evaluated_rows, margin_weights, rows_of_parts
from lrt_jax.data.input.demonstrations import DemonstrationEncoder
from lrt_jax.data.input.pairs import PairEncoder, PairSource, RawPair
from lrt_jax.data.input.waiting import WatchedIterator
from lrt_jax.data.schema import Batch, Example, stack

# ---------------------------------------------------------------------------- training


@dataclasses.dataclass(frozen=True)
class _EncodeSwapped(grain.transforms.RandomMap):
    """Encodes a pair in one of its two orders, by a random bit of its index in the stream."""

    encoder: PairEncoder
    demonstrations: DemonstrationEncoder | None

    def random_map(self, element: RawPair, rng: np.random.Generator) -> Example:
        swapped = bool(rng.integers(2))
        example = self.encoder.encode(element, swapped)
        if self.demonstrations is None:
            return example
        chosen = self.demonstrations.encode(element.record, swapped, rng)
        return dataclasses.replace(example, demonstrations=chosen)


class TrainLoader(Iterator[Batch], contextlib.AbstractContextManager):
    """Endless batches of one process, as NumPy arrays of constant shape.

    The position of the processes in the stream is the same, so that what one of them saved is where
    all go on, however many they are then.

    An iterator, and a context manager that stops its threads and workers. `get_state` gives the
    position after the last batch that was *taken*, however far ahead loading runs.
    """

    def __init__(self, dataset: grain.IterDataset, settings: dict[str, Any], pairs: int):
        self.pairs = pairs  # in an epoch, of all processes together
        self.settings = settings
        self._iterator = iter(dataset)
        self._batches = WatchedIterator(self._iterator)

    def __next__(self) -> Batch:
        return next(self._batches)

    def __exit__(self, *_) -> None:
        self.close()

    def get_state(self) -> dict[str, Any]:
        """The position in the stream, and the settings under which it means anything; JSON."""
        return {"settings": self.settings, "iterator": self._iterator.get_state()}

    def set_state(self, state: dict[str, Any]) -> None:
        """Goes to a position that `get_state` gave.

        Raises:
          ValueError: the position belongs to other data or settings; the iterator would go on from
            a wrong position silently.
        """
        saved = state["settings"]
        if differ := [
            f"{name} was {saved.get(name)!r} and is {value!r}"
            for name, value in self.settings.items()
            if saved.get(name) != value
        ]:
            raise ValueError(f"the saved position in the data does not fit: {'; '.join(differ)}")
        self._iterator.set_state(state["iterator"])

    def close(self) -> None:
        """Stops threads and workers; the loader must not be used after."""
        self._iterator.close()


def train_loader(
    prepared: DataSet,
    encoder: PairEncoder,
    *,
    split: str,
    batch_size: int,
    seed: int,
    process_index: int = 0,
    process_count: int = 1,
    num_threads: int = 4,
    num_workers: int = 0,
    drop_ties: bool = True,
    leave_out: Sequence[int] = (),
    pair_weights: PairWeights = "equal",
    demonstrations: DemonstrationEncoder | None = None,
) -> TrainLoader:
    """Shuffled, randomly swapped batches without end; each pair occurs once per epoch.

    Of a mixture every part is shuffled and repeated by itself, and has its share of any stretch of
    the stream, to within a hundredth of the share.

    Args:
      prepared: the set to read.
      encoder: turns a stored pair into an example.
      split: name of a split.
      batch_size: pairs per batch of all processes together; process `p` of `N` gets rows
        `p * batch_size / N` to `(p + 1) * batch_size / N` of each.
      seed: of order and swaps, below 2**32.
      process_index: which of the processes this is.
      process_count: processes that share every batch.
      num_threads: threads that prepare batches ahead, in each worker; 0 prepares none.
      num_workers: processes that do so, 0 for none. Decoding releases the GIL: try threads first.
      drop_ties: leave out pairs with equal votes. Pairs without votes are always left out.
      leave_out: rows of further pairs to leave out.
      pair_weights: `equal`, or `margin`, see `margin_weights`.
      demonstrations: adds completions to imitate to each pair.

    Raises:
      ValueError: no such split, too few pairs in it for one batch, a batch that the processes
        cannot share, or weights that are all 0.
    """
    if pair_weights not in get_args(PairWeights):
        known = ", ".join(get_args(PairWeights))
        raise ValueError(f"pair_weights {pair_weights!r} is not one of {known}")
    _check_divides(batch_size, process_count)
    rows, shares = rows_of_parts(prepared, split, drop_ties, leave_out)
    pairs = sum(map(len, rows))
    if pairs < batch_size:
        raise ValueError(
            f"split {split!r} of {prepared.folder} has {pairs} pairs to train on, fewer than "
            f"the batch of {batch_size}: take a smaller batch or more data"
        )
    weighted = pair_weights == "margin"
    sources = [
        PairSource(prepared, part, margin_weights(prepared, part) if weighted else None)
        for part in rows
    ]
    dataset = (
        _endless(sources, shares, seed)
        .random_map(_EncodeSwapped(encoder, demonstrations))
        .batch(batch_size // process_count, drop_remainder=True, batch_fn=stack)
    )[process_index::process_count]
    settings = {
        "fingerprint": prepared.fingerprint,
        "split": split,
        "pairs": pairs,
        "shares": shares,
        "batch_size": batch_size,
        "seed": seed,
        "num_workers": num_workers,
        "drop_ties": drop_ties,
        "pair_weights": pair_weights,
        "lessons": demonstrations.digest if demonstrations else None,  # as earlier runs have it
    }
    return TrainLoader(_read_ahead(dataset, num_threads, num_workers), settings, pairs)


def _endless(
    sources: Sequence[PairSource], shares: Sequence[float], seed: int
) -> grain.MapDataset[RawPair]:
    """Each source shuffled anew in every epoch, and drawn from by its share."""
    streams = [
        # Grain derives the seed of a shuffle from its position among the transformations: with the
        # slice of everything the order is that of the published tables (docs/learning.md).
        grain.MapDataset.source(source).seed((seed + i) % 2**32)[:].shuffle().repeat()
        for i, source in enumerate(sources)
    ]
    return streams[0] if len(streams) == 1 else grain.MapDataset.mix(streams, shares)


def _check_divides(batch_size: int, process_count: int) -> None:
    if batch_size % process_count:
        raise ValueError(
            f"a batch of {batch_size} pairs does not divide over {process_count} processes; take "
            "a multiple"
        )


def _read_ahead(dataset: grain.MapDataset, num_threads: int, num_workers: int) -> grain.IterDataset:
    """An iterable that prepares one batch per thread ahead; grain's default is 500 batches."""
    options = grain.ReadOptions(num_threads=num_threads, prefetch_buffer_size=num_threads)
    dataset = dataset.to_iter_dataset(options)
    if not num_workers:
        return dataset
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()  # grain hands all flags to its workers, and trips otherwise
    return dataset.mp_prefetch(
        grain.MultiprocessingOptions(num_workers=num_workers, per_worker_buffer_size=1),
        worker_init_fn=_begin_worker,
    )


def _begin_worker(index: int, count: int) -> None:
    """Ties a worker to its process: it ends when that does, be it killed, and not before."""
    del index, count  # what grain tells it
    # Sent to all processes of a group.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(0)  # it may be waiting for room in a queue that nobody empties


# ---------------------------------------------------------------------------- evaluation


@dataclasses.dataclass(frozen=True)
class _Order:
    """One of the two orders of a pair, to be shown in an evaluation."""

    index: int  # in the PairSource
    swapped: bool
    weight: float  # 0 for what only fills up a batch


@dataclasses.dataclass(frozen=True)
class _EncodeOrder(grain.transforms.Map):
    """Reads and encodes a pair in the given order."""

    source: PairSource
    encoder: PairEncoder

    def map(self, element: _Order) -> Example:
        example = self.encoder.encode(self.source[element.index], element.swapped)
        weighted = example.target.replace(weight=np.float32(element.weight))
        return dataclasses.replace(example, target=weighted)


@dataclasses.dataclass(frozen=True)
class EvalLoader:
    """Batches that show every chosen pair in both orders, once; can be iterated again."""

    dataset: grain.IterDataset
    pairs: int  # pairs that are shown, by all processes together
    available: int  # pairs of the split that could be shown
    batches: int  # batches of each process

    def __len__(self) -> int:
        return self.batches

    def __iter__(self) -> Iterator[Batch]:
        iterator = iter(self.dataset)
        try:
            yield from WatchedIterator(iterator)
        finally:  # its threads would keep an interpreter that fails from ending
            iterator.close()


def eval_loader(
    prepared: DataSet,
    encoder: PairEncoder,
    *,
    split: str,
    batch_size: int,
    limit: int | None = None,
    seed: int = 0,
    process_index: int = 0,
    process_count: int = 1,
    num_threads: int = 4,
    num_workers: int = 0,
    leave_out: Sequence[int] = (),
) -> EvalLoader:
    """Every pair of a split in both orders, ties included; the two orders follow one another.

    Pairs that nobody voted on are left out, as they are of training: no answer is right there.

    Args:
      prepared: the set to read.
      encoder: turns a stored pair into an example.
      split: name of a split.
      batch_size: shown pairs per batch of all processes together, which is divided among them as
        in `train_loader`; the last is filled up with repetitions of weight 0.
      limit: evaluate this many pairs at most, drawn by `seed`; None for all.
      seed: of that draw.
      process_index: which of the processes this is.
      process_count: processes that share every batch.
      num_threads: as in `train_loader`.
      num_workers: as in `train_loader`.
      leave_out: rows of pairs to leave out.

    Raises:
      ValueError: no such split, no pairs in it that anybody voted on, a limit below 1, or a batch
        that the processes cannot share.
    """
    _check_divides(batch_size, process_count)
    rows = evaluated_rows(prepared, split, leave_out)
    chosen = choose(rows, limit, seed)
    if not len(chosen):
        raise ValueError(
            f"split {split!r} of {prepared.folder} has no pairs with votes to evaluate"
        )
    logging.info("evaluating %d of the %d pairs of split %r", len(chosen), len(rows), split)
    orders = _padded_orders(len(chosen), batch_size)
    dataset = (
        grain.MapDataset.source(orders)
        .map(_EncodeOrder(PairSource(prepared, chosen), encoder))
        .batch(batch_size // process_count, drop_remainder=True, batch_fn=stack)
    )[process_index::process_count]
    return EvalLoader(
        dataset=_read_ahead(dataset, num_threads, num_workers),
        pairs=len(chosen),
        available=len(rows),
        batches=len(orders) // batch_size,
    )


def _padded_orders(pairs: int, batch_size: int) -> list[_Order]:
    """All pairs in both orders, filled up to whole batches."""
    both = itertools.product(range(pairs), (False, True))
    orders = [_Order(index, swapped, 1.0) for index, swapped in both]
    return orders + [_Order(0, False, 0.0)] * (-len(orders) % batch_size)
