"""What the footer of a parquet file declares of its columns, read without pyarrow.

pyarrow gives the same, but ends the process on some damaged footers instead of raising an error.
The footer is one struct of Thrift's compact protocol, before its length and the last four bytes.
"""

import io
import struct
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

_TRUE, _FALSE, _BYTE, _INTEGERS, _DOUBLE, _BINARY = 1, 2, 3, (4, 5, 6), 7, 8
_LISTS, _MAP, _STRUCT = (9, 10), 11, 12


class Chunk(NamedTuple):
    """The values of one column in one row group."""

    path: str  # of the column, nested ones with dots
    rows: int  # of the row group
    values: int  # with those that are null; lists have several in a row
    unpacked: int  # bytes
    packed: int  # bytes


def row_groups(path: Path) -> list[list[Chunk]]:
    """The columns of each row group.

    Raises:
      ValueError: the file is no parquet file, or its footer is damaged.
    """
    try:
        footer = _Reader(_footer(path)).struct()
        return [[_chunk(column, group[3]) for column in group[1]] for group in footer.get(4, [])]
    except (struct.error, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"its footer is damaged: {error}") from None


def _footer(path: Path) -> bytes:
    with path.open("rb") as file:
        size = file.seek(0, io.SEEK_END)
        file.seek(max(size - 8, 0))
        length, mark = struct.unpack("<I4s", file.read(8))
        if mark != b"PAR1" or length > size - 8:
            raise ValueError("it does not end as a parquet file does")
        file.seek(size - 8 - length)
        return file.read(length)


def _chunk(column: dict[int, Any], rows: int) -> Chunk:
    data = column[3]
    path = ".".join(name.decode("utf-8", "replace") for name in data[3])
    numbers = (rows, data[5], data[6], data[7])
    if min(numbers) < 0:
        raise ValueError(f"its footer is damaged: a negative count in column {path!r}")
    return Chunk(path, *numbers)


class _Reader:
    """Values of Thrift's compact protocol: structs as their fields by number."""

    def __init__(self, data: bytes):
        self._stream: BinaryIO = io.BytesIO(data)

    def struct(self) -> dict[int, Any]:
        fields: dict[int, Any] = {}
        number = 0
        while kind := self._byte():
            step, kind = kind >> 4, kind & 15
            number = number + step if step else self._integer()
            fields[number] = kind == _TRUE if kind in (_TRUE, _FALSE) else self._value(kind)
        return fields

    def _value(self, kind: int) -> Any:
        if kind in (_TRUE, _FALSE, _BYTE):  # in a list
            return self._byte()
        if kind in _INTEGERS:
            return self._integer()
        if kind == _DOUBLE:
            return struct.unpack("<d", self._stream.read(8))[0]
        if kind == _BINARY:
            return self._stream.read(self._unsigned())
        if kind in _LISTS:
            return self._list()
        if kind == _MAP:
            return self._map()
        if kind == _STRUCT:
            return self.struct()
        raise LookupError(f"a value of the unknown kind {kind}")

    def _list(self) -> list[Any]:
        head = self._byte()
        count = head >> 4 if head >> 4 < 15 else self._unsigned()
        return [self._value(head & 15) for _ in range(count)]

    def _map(self) -> list[tuple[Any, Any]]:
        count = self._unsigned()
        kinds = self._byte() if count else 0
        return [(self._value(kinds >> 4), self._value(kinds & 15)) for _ in range(count)]

    def _byte(self) -> int:
        return self._stream.read(1)[0]  # IndexError, a LookupError, where there is none

    def _unsigned(self) -> int:
        number = 0
        for shift in range(0, 64, 7):
            byte = self._byte()
            number |= (byte & 127) << shift
            if byte < 128:
                return number
        raise LookupError("a number of more than 64 bits")

    def _integer(self) -> int:
        number = self._unsigned()
        return number >> 1 ^ -(number & 1)
