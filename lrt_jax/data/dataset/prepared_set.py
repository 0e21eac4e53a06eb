"""The two tables of a prepared set: TFDS datasets in ArrayRecord files, without TensorFlow.

```
PREPARED/
  images/             TFDS dataset `images`, one split `records`: ImageRecord
  pairs/              TFDS dataset `pairs`, one split per data split: PairRecord
  columns.npz         what choosing and measuring needs, without reading a record: of pairs label
                      int8 [n], p_first float32 [n], cluster and caption int64 [n], images int64
                      [n, 2], pair_key uint64 [n]; of images size int32 [m, 2], image_key uint64 [m]
  looks.npz           of images phash uint64 [m], thumb uint8 [m, 8, 8, 3]: to find them elsewhere
  input.jsonl         what was found of every image of the input
  build_report.json   and build_report.md, the same to read
```

A source may have further files beside these.

Row `r` of the pairs table counts through the splits in the order of the build report.
"""

import abc
import dataclasses
import functools
import io
import itertools
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

import numpy as np
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter
from etils import epath
from jaxtyping import Float32, Int, Int8, UInt8, UInt64
from tensorflow_datasets.core.example_serializer import ExampleSerializer
from tensorflow_datasets.core.naming import ShardedFileTemplate

from lrt_jax.config.choices import ALL_SPLITS
from lrt_jax.data.dataset.keys import image_key, pair_key
from lrt_jax.data.dataset.set_files import (
    REMEDY,
    Files,
    Records,
    check_content,
    check_files,
    fingerprint,
    shards_of,
)
from lrt_jax.data.schema import ImageRecord, PairRecord
from lrt_jax.data.sources import published_test_splits
from lrt_jax.storage.disk import explain, give_name, read_fields, read_plainly

# Of the tables' layout, and of how images look in them; a set of another version must be prepared
# again.
VERSION = "3.2.0"
IMAGE_SPLIT = "records"
REPORT = "build_report.json"
ALL = ALL_SPLITS  # every split together; TFDS reserves the name, so no split is called so
COLUMNS = "columns.npz"
LOOKS = "looks.npz"
INPUT_LOG = "input.jsonl"
READABLE_REPORT = "build_report.md"
# Of a build report of this layout, what is read of it in a run, and not by its page alone.
REPORT_FIELDS: Mapping[str, type] = {
    "source": str,
    "notes": list,
    "settings": dict,
    "records_digest": str,
    "files": dict,
    "fingerprint": str,
    "groups": int,
    "images": int,
    "pairs": int,
    "ties": int,
    "dropped": int,
    "own_splits": list,
    "criteria": dict,
    "splits": dict,
}
SHARD_BYTES = 512 * 2**20  # large shards are slow to open, many small ones slow to list
SHARD_PAIRS = 100_000

R = TypeVar("R", ImageRecord, PairRecord)


def image_features() -> tfds.features.FeaturesDict:
    """Features of an ImageRecord."""
    return tfds.features.FeaturesDict(
        {
            "key": tfds.features.Text(),
            "image": tfds.features.Image(shape=(None, None, 3)),  # read back undecoded
            "height": np.int32,
            "width": np.int32,
            "phash": np.uint64,
            "source": tfds.features.Text(),
            "valid": np.bool_,
        }
    )


def pair_features() -> tfds.features.FeaturesDict:
    """Features of a PairRecord."""
    text, two = tfds.features.Text, functools.partial(tfds.features.Tensor, shape=(2,))
    return tfds.features.FeaturesDict(
        {
            "uid": text(),
            "source": text(),
            "split": text(),
            "group_id": text(),
            "cluster": np.int64,
            "prompt": text(),
            "image_index": two(dtype=np.int64),
            "votes": two(dtype=np.float32),
            "votes_weighted": two(dtype=np.float32),
            "rank": two(dtype=np.float32),
            "label": np.int8,
            "p_first": np.float32,
            "criterion": text(),
            "generator": tfds.features.Sequence(text(), length=2),
            "flags": np.int32,
        }
    )


def write_shard(
    path: Path, records: Iterable[ImageRecord | PairRecord], features: tfds.features.FeaturesDict
) -> None:
    """Writes a file of records, which has its name once it is whole."""
    unfinished = path.with_name(f".{path.name}.tmp")
    serializer = ExampleSerializer(features.get_serialized_info())
    try:
        with explain(path):
            writer = ArrayRecordWriter(str(unfinished), "group_size:1")  # which one read gets
            try:
                for record in records:
                    encoded = features.encode_example(dataclasses.asdict(record))
                    # In one order of its fields, so that the same records are the same bytes.
                    proto = serializer.get_tf_example(encoded)
                    writer.write(proto.SerializeToString(deterministic=True))
            finally:
                writer.close()
            give_name(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def shard_paths(folder: Path, name: str, split: str, count: int) -> list[Path]:
    """Of the `count` files of a split, by TFDS' rule."""
    prefix = _shard_prefix(name, split)
    return [folder / f"{prefix}{shard:05d}-of-{count:05d}" for shard in range(count)]


def _shard_prefix(name: str, split: str) -> str:
    return f"{name}-{split}.array_record-"


def write_metadata(
    folder: Path,
    name: str,
    features: tfds.features.FeaturesDict,
    shard_lengths: Mapping[str, Sequence[int]],
) -> None:
    """Makes a TFDS dataset of a folder of shards.

    Args:
      folder: with the shards of `shard_paths`.
      name: of the dataset.
      features: of its records.
      shard_lengths: records of each shard, by split.
    """
    template = ShardedFileTemplate(
        dataset_name=name, data_dir=folder, filetype_suffix="array_record"
    )
    splits = [
        tfds.core.SplitInfo(
            name=split,
            shard_lengths=list(lengths),
            num_bytes=sum(
                path.stat().st_size for path in shard_paths(folder, name, split, len(lengths))
            ),
            filename_template=template.replace(split=split),
        )
        for split, lengths in shard_lengths.items()
    ]
    tfds.folder_dataset.write_metadata(
        data_dir=folder,
        features=features,
        split_infos=splits,
        version=VERSION,
        filename_template=template,
        check_data=False,
        description=f"{name} table",
    )


def write_columns(
    folder: Path,
    pairs: Sequence[PairRecord],
    sizes: Sequence[tuple[int, int]],
    digests: Sequence[str],
) -> None:
    """Writes the columns.

    Args:
      folder: of the set.
      pairs: in the order of their rows.
      sizes: height and width of each image, pixels.
      digests: SHA-256 of each image's bytes, in hex.
    """

    def key(pair: PairRecord) -> int:
        return pair_key(pair.prompt, [digests[row] for row in pair.image_index])

    numbers: dict[str, int] = {}
    np.savez(
        folder / COLUMNS,
        label=np.array([pair.label for pair in pairs], np.int8),
        p_first=np.array([pair.p_first for pair in pairs], np.float32),
        cluster=np.array([pair.cluster for pair in pairs], np.int64),
        caption=np.array([numbers.setdefault(p.prompt, len(numbers)) for p in pairs], np.int64),
        images=np.array([pair.image_index for pair in pairs], np.int64).reshape(-1, 2),
        pair_key=np.array([key(pair) for pair in pairs], np.uint64),
        size=np.array(sizes, np.int32).reshape(-1, 2),
        image_key=np.array([image_key(digest) for digest in digests], np.uint64),
    )


def write_looks(
    folder: Path, phash: UInt64[np.ndarray, " m"], thumb: UInt8[np.ndarray, "m 8 8 3"]
) -> None:
    """Writes how the images look."""
    np.savez(folder / LOOKS, phash=phash, thumb=thumb)


def read_report(path: epath.PathLike, remedy: str = REMEDY) -> dict[str, Any]:
    """What a `build_report.json` holds, be it of this layout or of another.

    Args:
      path: of the file.
      remedy: for the error where it cannot be used.

    Raises:
      ValueError: it is no build report, or lacks fields of one of this layout.
    """
    report = read_fields(path, remedy)
    with read_plainly(path, remedy):
        layout = _field(report, "version", str)
        for name, kind in REPORT_FIELDS.items() if layout == VERSION else ():
            _field(report, name, kind)
    return report


def _field(report: Mapping[str, Any], name: str, kind: type) -> Any:
    if name not in report:
        raise KeyError(name)
    if not isinstance(report[name], kind):
        raise TypeError(f"{name} is {report[name]!r:.50}, not a {kind.__name__}")
    return report[name]


class Columns(abc.ABC):
    """The columns of a prepared set, or of several: arrays over all rows of a table."""

    @abc.abstractmethod
    def column(self, name: str) -> np.ndarray:
        """The array that is called so in `columns.npz`."""

    @property
    def labels(self) -> Int8[np.ndarray, " pairs"]:
        """`PairRecord.label` of every row."""
        return self.column("label")

    @property
    def clusters(self) -> Int[np.ndarray, " pairs"]:
        """`PairRecord.cluster` of every row."""
        return self.column("cluster")

    @property
    def p_first(self) -> Float32[np.ndarray, " pairs"]:
        """`PairRecord.p_first` of every row."""
        return self.column("p_first")

    @property
    def pair_images(self) -> Int[np.ndarray, "pairs 2"]:
        """`PairRecord.image_index` of every row."""
        return self.column("images")

    @property
    def pair_keys(self) -> UInt64[np.ndarray, " pairs"]:
        """`trained_on.pair_key` of every row."""
        return self.column("pair_key")

    @property
    def image_keys(self) -> UInt64[np.ndarray, " images"]:
        """`trained_on.image_key` of every image."""
        return self.column("image_key")

    @property
    def image_sizes(self) -> Int[np.ndarray, "images 2"]:
        """Height and width of every image, pixels."""
        return self.column("size")


class PreparedSet(Columns):
    """A prepared set, read by row. Opens its files at first use, in whichever process that is.

    Args:
      folder: the output of `prepare`, on this machine or in a bucket (`gs://`).
      announce: whether it is logged where comparing the files with the build report takes long.

    Raises:
      FileNotFoundError: the folder holds no finished prepared set.
      ValueError: it was prepared in another version's layout, or a file is not the one that was
        prepared, see `set_files.check_files`.
    """

    def __init__(self, folder: epath.PathLike, *, announce: bool = False):
        self.folder = os.fspath(folder)
        if not self.beside(REPORT).is_file():
            raise FileNotFoundError(
                f"{folder}: no {REPORT}, so this is no finished prepared set; make one with "
                "python -m lrt_jax.prepare"
            )
        if self.report["version"] != VERSION:
            raise ValueError(
                f"{folder}: prepared in layout {self.report['version']}, this code reads "
                f"{VERSION}; prepare it again"
            )
        with read_plainly(self.beside(REPORT), REMEDY):
            recorded = self.report["records_digest"], self._files, self._split_sizes
            if fingerprint(*recorded) != self.fingerprint:
                raise ValueError(
                    f"{self.beside(REPORT)}: its fingerprint is not that of its files and splits; "
                    f"{REMEDY}"
                )
        check_files(epath.Path(self.folder), self._files, announce=announce)

    def __getstate__(self) -> dict[str, str]:
        # Readers and their threads stay behind; the files are compared with the report just once.
        return {"folder": self.folder}

    def __repr__(self) -> str:
        return f"PreparedSet({self.folder!r})"

    @functools.cached_property
    def report(self) -> dict[str, Any]:
        """The build report."""
        return read_report(self.beside(REPORT))

    def beside(self, name: str) -> epath.Path:
        """Where a further file of the source lies, if it has one of this name."""
        return epath.Path(self.folder) / name

    @property
    def _files(self) -> Files:
        return self.report["files"]

    @property
    def _split_sizes(self) -> dict[str, int]:
        return {name: split["pairs"] for name, split in self.report["splits"].items()}

    @property
    def fingerprint(self) -> str:
        """Digest of the set's content."""
        return self.report["fingerprint"]

    @functools.cached_property
    def splits(self) -> dict[str, range]:
        """Rows of the pairs table, by split."""
        sizes = self._split_sizes
        ends = itertools.accumulate(sizes.values())
        return {
            name: range(end - size, end)
            for (name, size), end in zip(sizes.items(), ends, strict=True)
        }

    @functools.cached_property
    def _columns(self) -> dict[str, np.ndarray]:
        return self._arrays(COLUMNS)

    def column(self, name: str) -> np.ndarray:
        return self._columns[name]

    def _arrays(self, name: str) -> dict[str, np.ndarray]:
        path = self.beside(name)
        content = path.read_bytes()
        check_content(path, content, self._files[name])
        with np.load(io.BytesIO(content)) as arrays:
            return dict(arrays)

    @property
    def looks(self) -> tuple[UInt64[np.ndarray, " images"], UInt8[np.ndarray, "images 8 8 3"]]:
        """Perceptual hash and thumbnail of every image."""
        looks = self._arrays(LOOKS)
        return looks["phash"], looks["thumb"]

    def captions(self, rows: Sequence[int]) -> list[str]:
        """The different captions of some rows, in the order of their first rows."""
        rows = np.asarray(rows)
        _, first = np.unique(self.column("caption")[rows], return_index=True)
        return [self.pair(int(row)).prompt for row in rows[np.sort(first)]]

    @property
    def num_pairs(self) -> int:
        return self.report["pairs"]

    @property
    def num_images(self) -> int:
        return self.report["images"]

    def rows(self, split: str) -> range:
        """Rows of a split; `all` is every row.

        Raises:
          ValueError: the set has no such split.
        """
        if split == ALL:
            return range(self.num_pairs)
        if split not in self.splits:
            has = ", ".join(f"{name} ({len(rows)} pairs)" for name, rows in self.splits.items())
            whole = ", ".join(self._test_splits)
            raise ValueError(
                f"{self.folder}: no split {split!r}; it has {has}, and 'all': name one of these "
                "(data.train_split, eval.split, eval.others), or cut it anew (data.split_fractions)"
                + f"; {whole} is published for testing and never cut"
                * bool(whole)
            )
        return self.splits[split]

    @property
    def _test_splits(self) -> list[str]:
        """Splits that the source publishes for testing."""
        known = published_test_splits(self.report["source"])
        return [name for name in self.report["own_splits"] if name in known]

    def pair(self, row: int) -> PairRecord:
        """Reads one row of the pairs table."""
        for name, rows in self.splits.items():
            if row in rows:
                return _as_record(PairRecord, self._pairs[name][row - rows.start])
        raise IndexError(f"{self.folder}: pair {row} of {self.num_pairs}")

    def image(self, index: int) -> ImageRecord:
        """Reads one row of the images table."""
        if not 0 <= index < self.num_images:
            raise IndexError(f"{self.folder}: image {index} of {self.num_images}")
        return _as_record(ImageRecord, self._images[index])

    @functools.cached_property
    def _pairs(self) -> dict[str, Records]:
        features = pair_features()
        return {
            split: Records(self._shards("pairs", split, len(rows)), features)
            for split, rows in self.splits.items()
            if rows
        }

    @functools.cached_property
    def _images(self) -> Records:
        shards = self._shards("images", IMAGE_SPLIT, self.num_images)
        return Records(shards, image_features(), {"image": tfds.decode.SkipDecoding()})

    def _shards(self, table: str, split: str, count: int) -> dict[str, int]:
        prefix = f"{table}/{_shard_prefix(table, split)}"
        return shards_of(self.folder, self._files, prefix, count)


def _as_record(kind: type[R], row: Mapping[str, Any]) -> R:
    """A row as TFDS returns it, in types of Python."""
    return kind(**{x.name: _as_python(x.type, row[x.name]) for x in dataclasses.fields(kind)})


def _as_python(kind: type, value: Any) -> Any:
    if kinds := get_args(kind):
        return tuple(_as_python(kinds[0], x) for x in value)
    return value.decode("utf-8") if kind is str and isinstance(value, bytes) else kind(value)
