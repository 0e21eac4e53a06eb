"""Parquet files, some rows at a time: no more than their size makes credible.

A page of a few bytes can stand for gigabytes: packed zeros, one long value that thousands of rows
share, lists without end. What the footer declares is therefore checked before anything is read, and
rows are read in as small batches as could be needed.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lrt_jax.data.sources.errors import ArchiveError
from lrt_jax.data.sources.limits import BATCH_BYTES, RANKED_IMAGES, TABLE_ROWS, unpacked_bytes
from lrt_jax.data.sources.parquet_footer import Chunk, row_groups

if TYPE_CHECKING:
    import pyarrow
    from pyarrow import parquet

ROWS = 64  # read at a time, or fewer where they may be large


def row_batches(
    table: "parquet.ParquetFile", path: Path, columns: Sequence[str]
) -> Iterator[tuple[int, "pyarrow.RecordBatch"]]:
    """Rows of an open parquet file.

    Args:
      table: the file.
      path: where it lies.
      columns: that are read.

    Yields:
      The number of the first row of each batch, and the batch.

    Raises:
      ArchiveError: the file declares more rows, values or bytes than `limits` allow.
    """
    rows = _check_declared(table.metadata.num_rows, path, columns)
    first = 0
    for batch in table.iter_batches(rows, columns=list(columns)):
        yield first, batch
        first += len(batch)


def _check_declared(num_rows: int, path: Path, columns: Sequence[str]) -> int:
    """How many rows may be read at a time."""
    size = path.stat().st_size
    _check_most(path, f"{num_rows:,} rows in {size:,} bytes", num_rows, max(TABLE_ROWS, size))
    rows = ROWS
    for i, chunks in enumerate(_row_groups(path)):
        read = [chunk for chunk in chunks if _is_of(chunk.path, columns)]
        for chunk in read:
            what = f"{chunk.values:,} values in {chunk.rows:,} rows of column {chunk.path!r}"
            _check_most(path, what, chunk.values, RANKED_IMAGES * max(chunk.rows, 1))
        unpacked = sum(chunk.unpacked for chunk in read)
        packed = min(size, sum(chunk.packed for chunk in read))
        what = f"that row group {i} unpacks from {packed:,} to {unpacked:,} bytes"
        _check_most(path, what, unpacked, unpacked_bytes(packed))
        # Each value may be as long as all of its column's bytes: encodings let rows share them.
        values = max((-(-chunk.values // max(chunk.rows, 1)) for chunk in read), default=1)
        rows = min(rows, BATCH_BYTES // max(unpacked * values, 1))
    return max(rows, 1)


def _row_groups(path: Path) -> list[list[Chunk]]:
    try:
        return row_groups(path)
    except ValueError as error:
        raise ArchiveError(
            f"{path}: not a readable parquet file ({error}); fetch it again"
        ) from None


def _is_of(path: str, columns: Sequence[str]) -> bool:
    return any(path == column or path.startswith(f"{column}.") for column in columns)


def _check_most(path: Path, what: str, count: int, most: int) -> None:
    if count > most:
        raise ArchiveError(
            f"{path}: declares {what}, of which at most {most:,} are read; fetch it again, or "
            "write it anew in smaller files"
        )
