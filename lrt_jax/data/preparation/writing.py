"""Writing the tables of a prepared set, in parallel shards, and reading them back.

A shard has its name once it is whole, so that a build that is started again writes only the others.
"""

import concurrent.futures
import contextlib
import hashlib
import itertools
import os
import shutil
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from tqdm import tqdm

from lrt_jax.data.dataset import prepared_set
from lrt_jax.data.preparation.image_scan import ImageFacts
from lrt_jax.data.preparation.merge import Plan
from lrt_jax.data.schema import ImageRecord
from lrt_jax.data.sources import InputFolder
from lrt_jax.parallel.threads import in_threads
from lrt_jax.storage.disk import check_space, write_atomically

BEGUN = ".begun"  # names the plan that shards belong to
Shard = list[ImageFacts]


def write_tables(
    work: Path, plan: Plan, folder: InputFolder, source: str, digest: str
) -> dict[str, int]:
    """Writes both tables of a plan; shards that are there are not written again.

    Args:
      work: where to.
      plan: what.
      folder: with the images.
      source: name of the source.
      digest: of the plan, see `report.records_digest`.

    Returns:
      How many records each shard holds, by its path inside the set.

    Raises:
      ValueError: an image is no longer what it was when it was looked at.
      OSError: the disk refuses, see `disk.explain`.
    """
    _begin(work, digest)
    with tqdm(total=len(plan.files), desc="writing", unit="image", delay=3, leave=False) as bar:
        lengths = {
            prepared_set.IMAGE_SPLIT: _write_images(work / "images", plan, folder, source, bar)
        }
    prepared_set.write_metadata(work / "images", "images", prepared_set.image_features(), lengths)
    return _records("images", lengths) | _records("pairs", _write_pairs(work / "pairs", plan))


def _records(table: str, lengths: Mapping[str, Sequence[int]]) -> dict[str, int]:
    """How many records each shard of a table holds."""
    found: dict[str, int] = {}
    for split, counts in lengths.items():
        paths = prepared_set.shard_paths(Path(table), table, split, len(counts))
        found |= zip(map(str, paths), counts, strict=True)
    return found


def _begin(work: Path, digest: str) -> None:
    """Removes shards of another plan."""
    mark = work / BEGUN
    if mark.is_file() and mark.read_text(encoding="utf-8") == digest:
        return
    for name in ("images", "pairs"):
        shutil.rmtree(work / name, ignore_errors=True)
    write_atomically(mark, digest.encode())


def _write_pairs(folder: Path, plan: Plan) -> dict[str, list[int]]:
    """Writes all shards of pairs that are not there; returns the lengths of all, by split."""
    shards = {
        split: [
            pairs[start : start + prepared_set.SHARD_PAIRS]
            for start in range(0, len(pairs), prepared_set.SHARD_PAIRS)
        ]
        for split, pairs in plan.splits.items()
    }
    folder.mkdir(exist_ok=True)
    features = prepared_set.pair_features()
    for split, parts in shards.items():
        paths = prepared_set.shard_paths(folder, "pairs", split, len(parts))
        for path, pairs in zip(paths, parts, strict=True):
            if not path.is_file():
                prepared_set.write_shard(path, pairs, features)
    lengths = {split: [len(pairs) for pairs in parts] for split, parts in shards.items()}
    prepared_set.write_metadata(folder, "pairs", features, lengths)
    return lengths


# ---------------------------------------------------------------------------- images


def _write_images(into: Path, plan: Plan, folder: InputFolder, source: str, bar: tqdm) -> list[int]:
    """Writes all shards of images that are not there; returns the lengths of all."""
    into.mkdir(exist_ok=True)
    shards = _shards(plan.files, folder)
    paths = prepared_set.shard_paths(into, "images", prepared_set.IMAGE_SPLIT, len(shards))
    missing = [(path, s) for path, s in zip(paths, shards, strict=True) if not path.is_file()]
    bar.update(len(plan.files) - sum(len(shard) for _, shard in missing))
    writer = _ImageWriter(folder, source, bar.update)
    check_space(into, sum(fact.size for _, shard in missing for fact in shard))
    jobs = _jobs(missing, folder)
    with (
        concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool,
        _stopping(writer.stop, pool),
    ):
        for future in [pool.submit(writer.write, job) for job in jobs]:
            future.result()
    return [len(shard) for shard in shards]


def _shards(files: Sequence[ImageFacts], folder: InputFolder) -> list[Shard]:
    """Cuts images into shards; those of two streams never share one."""
    shards: list[Shard] = []
    size = 0
    for fact in files:
        new = not shards or size + fact.size > prepared_set.SHARD_BYTES
        if new or folder.stream(fact.ref) != folder.stream(shards[-1][-1].ref):
            shards.append([])
            size = 0
        shards[-1].append(fact)
        size += fact.size
    return shards


def _jobs(
    shards: Sequence[tuple[Path, Shard]], folder: InputFolder
) -> list[list[tuple[Path, Shard]]]:
    """Those of a stream one after another, to be written in one pass over it; others alone."""

    def stream(numbered: tuple[int, tuple[Path, Shard]]) -> str | int:
        number, (_, shard) = numbered
        return folder.stream(shard[0].ref) or number

    return [[x for _, x in job] for _, job in itertools.groupby(enumerate(shards), stream)]


@contextlib.contextmanager
def _stopping(stop: threading.Event, pool: concurrent.futures.Executor) -> Iterator[None]:
    """Ends all threads soon where one has failed, or the process is asked to end."""
    try:
        yield
    except BaseException:
        stop.set()
        pool.shutdown(wait=False, cancel_futures=True)
        raise


class _ImageWriter:
    """Writes shards of images, in any thread."""

    def __init__(self, folder: InputFolder, source: str, progress: Callable[[int], object]):
        self.stop = threading.Event()
        self._folder, self._source, self._progress = folder, source, progress
        self._features = prepared_set.image_features()

    def write(self, shards: Sequence[tuple[Path, Shard]]) -> None:
        """Writes shards one after another."""
        loads = self._folder.loads(fact.ref for _, shard in shards for fact in shard)
        for path, shard in shards:
            prepared_set.write_shard(path, self._records(shard, loads), self._features)

    def _records(self, shard: Shard, loads: Iterable) -> Iterator[ImageRecord]:
        for fact, (ref, load) in zip(shard, loads, strict=False):
            data = load()
            if ref != fact.ref or hashlib.sha256(data).hexdigest() != fact.digest:
                raise ValueError(
                    f"{self._folder.origin(fact.ref)}: changed while it was prepared; leave the "
                    "files alone and give the same command again"
                )
            if self.stop.is_set():
                raise InterruptedError("stopped, since another shard could not be written")
            self._progress(1)
            yield ImageRecord(
                key=fact.digest,
                image=data,
                height=fact.height,
                width=fact.width,
                phash=fact.phash,
                source=self._source,
                valid=True,
            )


# ---------------------------------------------------------------------------- reading back


def verify(prepared: prepared_set.PreparedSet, plan: Plan) -> None:
    """Reads every record back.

    Raises:
      ValueError: an image whose bytes are not its key's, or a pair that is not the planned one.
    """

    def check(row: int, fact: ImageFacts) -> None:
        image = prepared.image(row)
        if not image.key == hashlib.sha256(image.image).hexdigest() == fact.digest:
            raise ValueError(f"image {row} ({fact.ref}) was not written as it was read")

    images = in_threads(check, enumerate(plan.files))
    for _ in tqdm(images, "verifying", len(plan.files), unit="image", delay=3, leave=False):
        pass
    pairs = tqdm(plan.pairs, "verifying", unit="pair", delay=3, leave=False)
    for row, pair in enumerate(pairs):
        # equality would hold unknown ranks, NaN, unequal
        if repr(prepared.pair(row)) != repr(pair):
            raise ValueError(f"pair {row} ({pair.uid}) was not written as planned")
