"""Files of rows that are to be compared: JSON lines, CSV or parquet.

A row has the columns `caption`, `first` and `second`. Images are paths, relative to the folder of
the file; in parquet also the bytes of image files, as they are or as `bytes` of a struct.
"""

import csv
import dataclasses
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lrt_jax.data.sources.row_batches import row_batches
from lrt_jax.inference.reward_model import COLUMNS
from lrt_jax.storage.disk import MADE_ANEW, UserError, read_plainly

ENDINGS = (".jsonl", ".csv", ".parquet")
IMAGES = COLUMNS[1:]


@dataclasses.dataclass(frozen=True)
class InputRow:
    """One row of a file.

    Attributes:
      number: of the row in its file, from 0.
      names: what the row says, as far as it is text, by column; of image bytes their path, if they
        have one.
      request: caption and images for `RewardModel.compare_many`, or what is wrong with the row.
    """

    number: int
    names: Mapping[str, str]
    request: Mapping[str, Any] | ValueError


class RowsFile:
    """A file of rows, read from its begin to its end as often as it is asked for.

    Args:
      path: of the file; its ending says of which kind it is.
      image_root: folder that images are relative to; None for the file's own.

    Attributes:
      path: of the file.
      image_root: folder that images are relative to.
      count: how many rows there are, bad ones included.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: the file is of another kind, cannot be read, or lacks a column.
    """

    def __init__(self, path: Path, image_root: Path | None = None):
        self.path, self.image_root = path, image_root or path.parent
        if path.suffix not in ENDINGS:
            raise ValueError(f"{path}: not a kind of file that is read; take {', '.join(ENDINGS)}")
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such file")
        self.count = self._count()

    def read(self, wanted: Sequence[range]) -> Iterator[InputRow]:
        """Some of the rows, in order.

        Args:
          wanted: their numbers, ascending.

        Raises:
          UserError: the file has become shorter.
        """
        records, at = self._records(), 0
        for numbers in wanted:
            chosen = itertools.islice(records, numbers.start - at, numbers.stop - at)
            for number in numbers:
                if (record := next(chosen, None)) is None:
                    raise UserError(
                        f"{self.path}: has {number} rows, and had {self.count} when it was opened; "
                        "let it be while it is read, and give the same command again"
                    )
                yield self._row(number, record)
            at = numbers.stop

    def _count(self) -> int:
        """Reads a parquet file's footer, and any other file once."""
        if self.path.suffix == ".parquet":
            from pyarrow import parquet

            with read_plainly(self.path, MADE_ANEW):
                footer = parquet.read_metadata(self.path)
                _check_columns(self.path, footer.schema.to_arrow_schema().names)
                return footer.num_rows
        return sum(1 for _ in self._records())

    def _records(self) -> Iterator[Any]:
        """Rows as their kind of file has them: what `_fields` reads."""
        kinds = {".jsonl": _lines, ".csv": _cells, ".parquet": _values}
        with read_plainly(self.path, MADE_ANEW):
            yield from kinds[self.path.suffix](self.path)

    def _row(self, number: int, record: Any) -> InputRow:
        try:
            fields = _fields(record)
        except ValueError as error:
            return InputRow(number, {}, error)
        request = {name: fields[name] for name in COLUMNS if name in fields}
        names = {name: _name(value) for name, value in request.items()}
        images = {name: self._image(request[name]) for name in IMAGES if name in request}
        told = {name: text for name, text in names.items() if text is not None}
        return InputRow(number, told, {**request, **images})

    def _image(self, value: Any) -> Any:
        """An image that `RewardModel` takes, of a path or of bytes."""
        if isinstance(value, dict) and value.keys() <= {"bytes", "path"}:
            value = value.get("bytes") or value.get("path")
        return self.image_root / value if isinstance(value, str) and value else value


def _name(value: Any) -> str | None:
    """Text of a row that an output can repeat; what Unicode has no character for is written out."""
    text = value.get("path") if isinstance(value, dict) else value
    return text.encode("utf-8", "backslashreplace").decode() if isinstance(text, str) else None


def _fields(record: bytes | Sequence | Mapping) -> Mapping[str, Any]:
    """What a row holds, by column.

    Raises:
      ValueError: it cannot be read.
    """
    if isinstance(record, tuple):
        header, cells = record
        if not cells:
            raise ValueError("an empty line")
        if len(cells) != len(header):
            raise ValueError(f"{len(cells)} cells, where the first line names {len(header)}")
        return dict(zip(header, cells, strict=True))
    if isinstance(record, bytes):
        if not record.strip():
            raise ValueError("an empty line")
        try:
            record = json.loads(record.strip())
        except (ValueError, RecursionError) as error:  # also of text that is not UTF-8
            raise ValueError(f"not JSON ({error})") from error
    if not isinstance(record, dict):
        raise ValueError(f"holds a {type(record).__name__}, not an object with fields")
    return record


def _lines(path: Path) -> Iterator[bytes]:
    with open(path, "rb") as file:
        yield from file


def _cells(path: Path) -> Iterator[tuple[list[str], list[str]]]:
    """The header and a row's cells, for each row."""
    # Bytes that are no UTF-8 are told with their row, when its caption or path is looked at.
    with open(path, newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
        table = csv.reader(file, strict=True)
        try:
            header = next(table, [])
            _check_columns(path, header)
            yield from ((header, cells) for cells in table)
        except csv.Error as error:  # where the next row begins, nobody knows
            raise UserError(f"{path}:{table.line_num}: {error}; mend this line") from error


def _values(path: Path) -> Iterator[dict[str, Any]]:
    from pyarrow import parquet

    with parquet.ParquetFile(path) as table:
        _check_columns(path, table.schema_arrow.names)
        for _, batch in row_batches(table, path, COLUMNS):
            yield from batch.to_pylist()


def _check_columns(path: Path, found: Sequence[str]) -> None:
    if missing := [name for name in COLUMNS if found.count(name) != 1]:
        raise UserError(
            f"{path}: there must be one column {', '.join(missing)}; it has "
            f"{', '.join(found) or 'none'}. "
            f"Name the caption and the two images {', '.join(COLUMNS)}"
        )
