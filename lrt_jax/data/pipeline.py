"""Prepared sets to batches of NumPy arrays, for training without end and for evaluation once.

The order of a training epoch, its swaps and the place after any batch follow from the seed and the
index alone, so that a run can be resumed and repeated, whatever the number of threads.
"""

import dataclasses
import itertools
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import grain
import numpy as np
from absl import flags, logging
from jaxtyping import Int

from lrt_jax.data.conversation import PromptEncoder
from lrt_jax.data.images import ImagePolicy, decode, encode_pair
from lrt_jax.data.lessons import LessonEncoder
from lrt_jax.data.schema import FIRST, SECOND, UNLABELLED, Batch, Example, PairRecord, Target, stack
from lrt_jax.data.tables import PreparedSet
from lrt_jax.models.qwen2_5_vl.config import VisionConfig

SWAPPED_LABEL = {FIRST: SECOND, SECOND: FIRST}  # a tie and a missing label stay what they are


# ---------------------------------------------------------------------------- one pair


@dataclasses.dataclass(frozen=True)
class RawPair:
    """A pair as it is stored: its row and record, and the files of its two images."""

    row: int
    record: PairRecord
    images: tuple[bytes, bytes]
    keys: tuple[str, str]


@dataclasses.dataclass(frozen=True)
class PairSource:
    """Random access to some pairs of a prepared set; picklable, opens its files at first use."""

    prepared: PreparedSet
    rows: Int[np.ndarray, " n"]  # of the pairs table

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> RawPair:
        row = int(self.rows[index])
        record = self.prepared.pair(row)
        first, second = (self.prepared.image(i) for i in record.image_index)
        return RawPair(row, record, (first.image, second.image), (first.key, second.key))


@dataclasses.dataclass(frozen=True)
class PairEncoder:
    """Turns a stored pair into an example, in the stored order or swapped.

    Attributes:
      policy: how images are brought to size.
      vision: the vision tower's patch and window sizes.
      prompt: encoder of the reasoner's prompt.
      listener_prompts: encoders of the prompts of listeners with an instruction of their own.
    """

    policy: ImagePolicy
    vision: VisionConfig
    prompt: PromptEncoder
    listener_prompts: tuple[PromptEncoder, ...] = ()

    def __call__(
        self,
        record: PairRecord,
        image_bytes_0: bytes,
        image_bytes_1: bytes,
        swapped: bool,
        *,
        row: int = -1,
        names: tuple[str, str] = ("image 0", "image 1"),
    ) -> Example:
        """Encodes one pair.

        Args:
          record: the pair's votes and caption.
          image_bytes_0: file of the image stored first.
          image_bytes_1: file of the image stored second.
          swapped: show the second first.
          row: of the pairs table, -1 for a pair from elsewhere.
          names: what to call the images in errors, in the stored order.

        Raises:
          ImageError: an image that cannot be decoded, or is far too long.
          PromptTooLong: the prompt does not fit into its bucket.
        """
        files = list(zip((image_bytes_0, image_bytes_1), names, strict=True))
        shown = files[::-1] if swapped else files
        first, second = (decode(data, name) for data, name in shown)
        images, grids = encode_pair(
            first, second, self.policy, self.vision, tuple(name for _, name in shown)
        )
        return Example(
            images=images,
            prompt=self.prompt.encode(record.prompt, grids),
            listener_prompts=tuple(e.encode(record.prompt, grids) for e in self.listener_prompts),
            target=target(record, row, swapped),
        )

    def encode(self, pair: RawPair, swapped: bool) -> Example:
        """Encodes a pair of a `PairSource`; what goes wrong names the pair."""
        try:
            return self(pair.record, *pair.images, swapped, row=pair.row, names=pair.keys)
        except ValueError as error:
            error.add_note(f"in pair {pair.record.uid}, row {pair.row} of the pairs table")
            raise


def target(record: PairRecord, row: int, swapped: bool) -> Target:
    """What people said of a pair, in the order in which it is shown; weight 1."""
    label = SWAPPED_LABEL.get(record.label, record.label) if swapped else record.label
    return Target(
        p_first=np.float32(1 - record.p_first if swapped else record.p_first),
        label=np.int32(label),
        pair=np.int32(row),
        swapped=np.bool_(swapped),
        weight=np.float32(1),
    )


# ---------------------------------------------------------------------------- training


@dataclasses.dataclass(frozen=True)
class _EncodeSwapped(grain.transforms.RandomMap):
    """Encodes a pair in one of its two orders, by a random bit of its index in the stream."""

    encoder: PairEncoder
    lessons: LessonEncoder | None

    def random_map(self, element: RawPair, rng: np.random.Generator) -> Example:
        swapped = bool(rng.integers(2))
        example = self.encoder.encode(element, swapped)
        if self.lessons is None:
            return example
        chosen = self.lessons.encode(element.record, swapped, rng)
        return dataclasses.replace(example, lessons=chosen)


class TrainLoader:
    """Endless batches of one process, as NumPy arrays of constant shape.

    An iterator, and a context manager that stops its threads and workers. `get_state` gives the
    place after the last batch that was *taken*, however far ahead loading runs.
    """

    def __init__(self, dataset: grain.IterDataset, settings: dict[str, Any], pairs: int):
        self.pairs = pairs  # in an epoch of this process
        self.settings = settings
        self._iterator = iter(dataset)

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        return next(self._iterator)

    def __enter__(self) -> "TrainLoader":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def get_state(self) -> dict[str, Any]:
        """The place in the stream, and the settings under which it means anything; JSON."""
        return {"settings": self.settings, "iterator": self._iterator.get_state()}

    def set_state(self, state: dict[str, Any]) -> None:
        """Goes to a place that `get_state` gave.

        Raises:
          ValueError: the place belongs to other data or settings. With another number of workers,
            for one, the iterator would go on from a wrong place without a word.
        """
        saved = state["settings"]
        if differ := [
            f"{name} was {saved.get(name)!r} and is {value!r}"
            for name, value in self.settings.items()
            if saved.get(name) != value
        ]:
            raise ValueError(f"the saved place in the data does not fit: {'; '.join(differ)}")
        self._iterator.set_state(state["iterator"])

    def close(self) -> None:
        """Stops threads and workers; the loader must not be used after."""
        self._iterator.close()


def train_loader(
    prepared: PreparedSet,
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
    lessons: LessonEncoder | None = None,
) -> TrainLoader:
    """Shuffled, randomly swapped batches without end; each pair occurs once per epoch.

    Args:
      prepared: the set to read.
      encoder: turns a stored pair into an example.
      split: name of a split.
      batch_size: pairs per batch of this process.
      seed: of order and swaps, below 2**32.
      process_index: which of the processes this is.
      process_count: processes that share an epoch; each reads pairs of its own.
      num_threads: threads that prepare batches ahead, in each worker; 0 prepares none.
      num_workers: processes that do so, 0 for none. Decoding releases the GIL: try threads first.
      drop_ties: leave out pairs with equal votes. Pairs without votes are always left out.
      lessons: adds completions to imitate to each pair.

    Raises:
      ValueError: no such split, or too few pairs in it for one batch.
    """
    rows = training_rows(prepared, split, drop_ties)
    mine = len(range(process_index, len(rows), process_count))
    if mine < batch_size:
        of = f" of process {process_index} of {process_count}" if process_count > 1 else ""
        raise ValueError(
            f"split {split!r} of {prepared.folder} has {mine} pairs{of} to train on, fewer than "
            f"the batch of {batch_size}: take a smaller batch or more data"
        )
    # slice before shuffle: the other way round, from the second epoch on pairs change processes
    dataset = (
        grain.MapDataset.source(PairSource(prepared, rows))
        .seed(seed)[process_index::process_count]
        .shuffle()
        .repeat()
        .random_map(_EncodeSwapped(encoder, lessons))
        .batch(batch_size, drop_remainder=True, batch_fn=_stack)
    )
    settings = {
        "fingerprint": prepared.fingerprint,
        "split": split,
        "batch_size": batch_size,
        "seed": seed,
        "process_index": process_index,
        "process_count": process_count,
        "num_workers": num_workers,
        "drop_ties": drop_ties,
        "lessons": lessons.digest if lessons else None,
    }
    return TrainLoader(_read_ahead(dataset, num_threads, num_workers), settings, mine)


def training_rows(prepared: PreparedSet, split: str, drop_ties: bool) -> Int[np.ndarray, " n"]:
    """Rows of a split's pairs that can be learned from."""
    rows = np.asarray(prepared.rows(split), np.int64)
    labels = prepared.labels[rows]
    return rows[np.isin(labels, (FIRST, SECOND)) if drop_ties else labels != UNLABELLED]


def _stack(examples: Sequence[Example]) -> Batch:
    return stack(list(examples))


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
    for number in (signal.SIGINT, signal.SIGTERM):  # sent to all processes of a group
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
    """Batches that show every chosen pair in both orders, once; can be iterated again.

    Attributes:
      pairs: pairs that are shown, by all processes together.
      available: pairs of the split.
      batches: batches of each process; processes with fewer pairs get rows of weight 0.
    """

    dataset: grain.IterDataset
    pairs: int
    available: int
    batches: int

    def __len__(self) -> int:
        return self.batches

    def __iter__(self) -> Iterator[Batch]:
        iterator = iter(self.dataset)
        try:
            yield from iterator
        finally:  # its threads would keep an interpreter that fails from ending
            iterator.close()


def eval_loader(
    prepared: PreparedSet,
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
) -> EvalLoader:
    """Every pair of a split in both orders, ties included; the two orders follow one another.

    Args:
      prepared: the set to read.
      encoder: turns a stored pair into an example.
      split: name of a split.
      batch_size: shown pairs per batch of this process; the last is filled up with repetitions of
        weight 0.
      limit: evaluate this many pairs at most, drawn by `seed`; None for all.
      seed: of that draw.
      process_index: which of the processes this is.
      process_count: processes that share the pairs; all get the same number of batches.
      num_threads: as in `train_loader`.
      num_workers: as in `train_loader`.

    Raises:
      ValueError: no such split, no pairs in it, or a limit below 1.
    """
    rows = np.asarray(prepared.rows(split), np.int64)
    chosen = choose(rows, limit, seed)
    if not len(chosen):
        raise ValueError(f"split {split!r} of {prepared.folder} has no pairs to evaluate")
    logging.info("evaluating %d of the %d pairs of split %r", len(chosen), len(rows), split)
    orders = _padded_orders(len(chosen), batch_size, process_index, process_count)
    dataset = (
        grain.MapDataset.source(orders)
        .map(_EncodeOrder(PairSource(prepared, chosen), encoder))
        .batch(batch_size, drop_remainder=True, batch_fn=_stack)
    )
    return EvalLoader(
        dataset=_read_ahead(dataset, num_threads, num_workers),
        pairs=len(chosen),
        available=len(rows),
        batches=len(orders) // batch_size,
    )


def choose(rows: Int[np.ndarray, " n"], limit: int | None, seed: int) -> Int[np.ndarray, " m"]:
    """At most `limit` of the rows, drawn by the seed, in their own order."""
    if limit is not None and limit < 1:
        raise ValueError(f"limit={limit}: evaluate at least one pair, or None for all")
    if limit is None or limit >= len(rows):
        return rows
    return np.sort(np.random.default_rng(seed).permutation(rows)[:limit])


def _padded_orders(
    pairs: int, batch_size: int, process_index: int, process_count: int
) -> list[_Order]:
    """This process' pairs in both orders, filled up to as many batches as any process needs."""
    most = 2 * len(range(0, pairs, process_count))
    length = -(-most // batch_size) * batch_size
    mine = itertools.product(range(process_index, pairs, process_count), (False, True))
    orders = [_Order(index, swapped, 1.0) for index, swapped in mine]
    return orders + [_Order(0, False, 0.0)] * (length - len(orders))
