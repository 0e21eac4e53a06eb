"""The files of a prepared set: recorded when they are written, checked when the set is opened.

The build report holds the size and SHA-256 of every shard and column file, and its fingerprint
covers them. Records are read through these names, by features of this code: the metadata that TFDS
writes beside the shards is for other programs, and nothing here reads it.
"""

import bisect
import dataclasses
import hashlib
import itertools
import json
import logging
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds
from array_record.python.array_record_data_source import ArrayRecordDataSource
from etils import epath
from tqdm import tqdm

from lrt_jax.parallel.threads import in_threads
from lrt_jax.storage.bucket import explain_refusals, is_address
from lrt_jax.storage.digests import file_digest
from lrt_jax.storage.disk import read_plainly

logger = logging.getLogger(__name__)

REMEDY = "copy the prepared set again, or prepare it anew with python -m lrt_jax.prepare"
LONG = 2**30  # bytes; reading more is announced

# `bytes` and `sha256` of a file, and of a shard `records`, by its path inside the set.
Files = Mapping[str, Mapping[str, Any]]


def recorded_files(folder: Path, records: Mapping[str, int], others: Iterable[str]) -> Files:
    """What a build report says of a set's files.

    Args:
      folder: of the set.
      records: how many each shard holds, by its path inside the set.
      others: paths of further files inside the set.
    """
    names = [*records, *others]
    digests = in_threads(file_digest, ((folder / name,) for name in names))
    files = {
        name: {"bytes": (folder / name).stat().st_size, "sha256": digest}
        for name, digest in zip(names, digests, strict=True)
    }
    for name, count in records.items():
        files[name]["records"] = count
    return files


def fingerprint(records_digest: str, files: Files, splits: Mapping[str, int]) -> str:
    """Digest of a set's content.

    Args:
      records_digest: of the records that were planned.
      files: that hold them, see `recorded_files`.
      splits: pairs of each, in the order in which the columns hold them.
    """
    content = json.dumps([records_digest, files, list(splits.items())], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


def check_files(folder: epath.Path, files: Files, *, announce: bool = False) -> None:
    """Checks that a set's files are those that were recorded.

    On this machine every byte is read, once: see `file_digest`. In a bucket sizes are compared, and
    small files when they are loaded.

    Args:
      folder: of the set.
      files: see `recorded_files`.
      announce: whether it is logged where there is much to read.

    Raises:
      ValueError: a file is missing, or is another; the message names it.
    """
    total = sum(file["bytes"] for file in files.values())
    here = not is_address(folder)
    if announce and here and total > LONG:
        logger.info(
            f"{folder}: comparing {total / 1e9:,.1f} GB with the build report; what was read "
            "before and has not changed since is not read again"
        )
    jobs = ((folder / name, file, here) for name, file in files.items())
    checks = in_threads(_check_file, jobs)
    for _ in tqdm(checks, "checking", len(files), unit="file", delay=3, leave=False):
        pass


def _check_file(path: epath.Path, recorded: Mapping[str, Any], here: bool) -> None:
    with explain_refusals(path, "read", storage_alone=True):
        if not path.is_file():
            raise ValueError(f"{path}: no such file, which the build report names; {REMEDY}")
        size = path.stat().length
    if size != recorded["bytes"]:
        _refuse(path, f"{size:,} bytes, not {recorded['bytes']:,}")
    if here and file_digest(path) != recorded["sha256"]:
        _refuse(path, "other bytes")


def check_content(path: epath.PathLike, content: bytes, recorded: Mapping[str, Any]) -> None:
    """Checks a file that was loaded whole.

    Raises:
      ValueError: it is not the one that was recorded.
    """
    if hashlib.sha256(content).hexdigest() != recorded["sha256"]:
        _refuse(path, "other bytes")


def _refuse(path: epath.PathLike, what: str) -> None:
    raise ValueError(f"{path}: not the file that was prepared, it has {what}; {REMEDY}")


@dataclasses.dataclass(frozen=True)
class _WholeShard:
    """As array_record takes a file whose number of records is known."""

    filename: str
    take: int
    skip: int = 0

    @property
    def examples_in_shard(self) -> int:
        return self.take


class Records:
    """The records of some shards, read by row, in any thread.

    Args:
      shards: their paths and how many records each holds.
      features: of the records.
      decoders: of features that are not decoded as they were encoded, see TFDS.
    """

    def __init__(
        self,
        shards: Mapping[str, int],
        features: tfds.features.FeaturesDict,
        decoders: Mapping[str, Any] | None = None,
    ):
        self._paths = list(shards)
        self._ends = list(itertools.accumulate(shards.values()))
        self._features, self._decoders = features, decoders
        self._source = ArrayRecordDataSource([_WholeShard(*shard) for shard in shards.items()])

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, row: int) -> dict[str, Any]:
        """One record.

        Raises:
          ValueError: its shard cannot be read; the message names it.
          BucketError: the shard lies in a bucket that cannot be read.
        """
        path = self._paths[bisect.bisect_right(self._ends, row)]
        with read_plainly(path, REMEDY), explain_refusals(path, "read"):
            example = self._source[row]
            return self._features.deserialize_example_np(example, decoders=self._decoders)


def shards_of(folder: os.PathLike | str, files: Files, prefix: str, count: int) -> dict[str, int]:
    """Whole paths of a table's shards in their order, and how many records each holds.

    Args:
      folder: of the set.
      files: see `recorded_files`.
      prefix: of the shards' paths inside the set.
      count: records of all together.

    Raises:
      ValueError: they hold another number of records.
    """
    names = sorted(name for name in files if name.startswith(prefix))
    found = {str(epath.Path(folder) / name): int(files[name]["records"]) for name in names}
    if sum(found.values()) != count:
        raise ValueError(
            f"{folder}: the build report has {count} records of {prefix}, and shards of "
            f"{sum(found.values())}; {REMEDY}"
        )
    return found
