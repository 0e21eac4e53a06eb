"""Several prepared sets as one, each with its share of what is trained on."""

import bisect
import dataclasses
import functools
import hashlib
import itertools
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int

from lrt_jax.data.dataset.prepared_set import ALL, Columns, PreparedSet
from lrt_jax.data.schema import ImageRecord, PairRecord


@dataclasses.dataclass(frozen=True)
class MixedSet(Columns):
    """Prepared sets one after the other, read like one `PreparedSet`.

    Rows of pairs and of images and numbers of clusters count through the parts. A caption that
    occurs in two parts has two clusters. Can be pickled.
    """

    parts: tuple[PreparedSet, ...]  # at least two sets
    # Of each part in training, in any unit; a part of share 0 is evaluated only.
    shares: tuple[float, ...]

    def __post_init__(self):
        if len(self.parts) != len(self.shares) or not self.parts:
            raise ValueError(f"{len(self.parts)} sets and {len(self.shares)} shares of them")
        if min(self.shares) < 0 or not max(self.shares) > 0:
            raise ValueError(f"shares {self.shares}: none may be negative, one must be above 0")

    def __reduce__(self):
        return MixedSet, (self.parts, self.shares)  # the columns stay behind

    @property
    def folder(self) -> str:
        """The parts' folders, for messages."""
        return " + ".join(part.folder for part in self.parts)

    def beside(self, name: str) -> Path:
        """A path that does not exist: side files belong to single sets."""
        return Path(self.folder) / name

    @functools.cached_property
    def fingerprint(self) -> str:
        """Digest of the parts' content, in their order."""
        content = json.dumps([part.fingerprint for part in self.parts])
        return hashlib.sha256(content.encode()).hexdigest()

    # ------------------------------------------------------------------------ where parts begin

    @functools.cached_property
    def _first_pairs(self) -> list[int]:
        return [0, *itertools.accumulate(part.num_pairs for part in self.parts)]

    @functools.cached_property
    def _first_images(self) -> list[int]:
        return [0, *itertools.accumulate(part.num_images for part in self.parts)]

    @functools.cached_property
    def _first_clusters(self) -> list[int]:
        used = (int(part.clusters.max(initial=-1)) + 1 for part in self.parts)
        return [0, *itertools.accumulate(used)]

    @property
    def num_pairs(self) -> int:
        return self._first_pairs[-1]

    @property
    def num_images(self) -> int:
        return self._first_images[-1]

    @property
    def part_rows(self) -> list[range]:
        """Rows of the pairs table that each part has."""
        return list(itertools.starmap(range, itertools.pairwise(self._first_pairs)))

    # ------------------------------------------------------------------------ columns

    @functools.cached_property
    def _columns(self) -> dict[str, np.ndarray]:
        return {}  # those that were asked for

    def column(self, name: str) -> np.ndarray:
        if name not in self._columns:
            numbered = {"cluster": self._first_clusters, "images": self._first_images}
            parts = zip(self.parts, numbered.get(name, itertools.repeat(0)), strict=False)
            self._columns[name] = np.concatenate([p.column(name) + first for p, first in parts])
        return self._columns[name]

    # ------------------------------------------------------------------------ splits

    @functools.cached_property
    def splits(self) -> dict[str, Int[np.ndarray, " n"]]:
        """Rows of the pairs table, by split; those of all parts that have it."""
        found: dict[str, list[np.ndarray]] = {}
        for part, first in zip(self.parts, self._first_pairs, strict=False):
            for name, rows in part.splits.items():
                found.setdefault(name, []).append(np.asarray(rows, np.int64) + first)
        return {name: np.concatenate(rows) for name, rows in found.items()}

    def rows(self, split: str) -> Int[np.ndarray, " n"] | range:
        """Rows of a split; `all` is every row.

        Raises:
          ValueError: no part has such a split.
        """
        if split == ALL:
            return range(self.num_pairs)
        if split not in self.splits:
            has = ", ".join(f"{name} ({len(rows)} pairs)" for name, rows in self.splits.items())
            raise ValueError(
                f"{self.folder}: no split {split!r}; together they have {has}: name one of "
                "these (data.train_split, eval.split, eval.others)"
            )
        return self.splits[split]

    def captions(self, rows: Sequence[int]) -> list[str]:
        """The different captions of some rows of each part."""
        rows = np.asarray(rows, np.int64)
        found = {}
        for part, here in zip(self.parts, self.part_rows, strict=True):
            mine = rows[(rows >= here.start) & (rows < here.stop)] - here.start
            found |= dict.fromkeys(part.captions(mine))
        return list(found)

    # ------------------------------------------------------------------------ records

    def pair(self, row: int) -> PairRecord:
        """Reads one row of the pairs table."""
        if not 0 <= row < self.num_pairs:
            raise IndexError(f"{self.folder}: pair {row} of {self.num_pairs}")
        i = bisect.bisect_right(self._first_pairs, row) - 1
        record = self.parts[i].pair(row - self._first_pairs[i])
        first, second = (index + self._first_images[i] for index in record.image_index)
        cluster = record.cluster + self._first_clusters[i]
        return dataclasses.replace(record, image_index=(first, second), cluster=cluster)

    def image(self, index: int) -> ImageRecord:
        """Reads one row of the images table."""
        if not 0 <= index < self.num_images:
            raise IndexError(f"{self.folder}: image {index} of {self.num_images}")
        i = bisect.bisect_right(self._first_images, index) - 1
        return self.parts[i].image(index - self._first_images[i])


DataSet = PreparedSet | MixedSet


def parts_of(prepared: DataSet) -> tuple[PreparedSet, ...]:
    """The prepared sets that a set is made of: itself, or a mixture's."""
    return prepared.parts if isinstance(prepared, MixedSet) else (prepared,)


def folders_of(prepared: DataSet, rows: Int[np.ndarray, " n"]) -> str:
    """The folders of the sets that some rows are of, for messages."""
    if not isinstance(prepared, MixedSet):
        return prepared.folder
    parts = zip(prepared.parts, prepared.part_rows, strict=True)
    return " + ".join(
        part.folder for part, own in parts if np.any((rows >= own.start) & (rows < own.stop))
    )


def drawn_parts(prepared: DataSet) -> list[tuple[range, float]]:
    """Rows and share of every part that training draws from."""
    if not isinstance(prepared, MixedSet):
        return [(range(prepared.num_pairs), 1.0)]
    return [
        (rows, share)
        for rows, share in zip(prepared.part_rows, prepared.shares, strict=True)
        if share
    ]
