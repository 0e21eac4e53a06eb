"""Tables of records in the files of a data set, and saying precisely what is wrong with one."""

import contextlib
import csv
import dataclasses
import io
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from lrt_jax.data.schema import FileRef
from lrt_jax.data.sources.bad_records import BadRecords
from lrt_jax.data.sources.checking import is_unicode
from lrt_jax.data.sources.files import InputFolder, SourceError
from lrt_jax.disk import pass_on_limits

if TYPE_CHECKING:
    import pyarrow


@dataclasses.dataclass(frozen=True)
class Record:
    """One object of a table, with the place it was read from for errors."""

    fields: Mapping[str, Any]
    place: str  # file and record
    row: int = -1  # of a parquet file

    def __contains__(self, name: str) -> bool:
        return name in self.fields

    def get(self, *names: str, kind: type | tuple[type, ...] = object) -> Any:
        """Value of the first of `names` that is there.

        Raises:
          SourceError: none is there, or the value is not of type `kind`.
        """
        for name in names:
            if name in self.fields:
                value = self.fields[name]
                # True and False are ints to Python, but no votes, ranks or texts
                if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
                    self.fail(name, f"is {value!r}", f"expected {_type_name(kind)}")
                return value
        has = ", ".join(self.fields) or "nothing"
        self.fail(" or ".join(names), "is missing", f"the record has {has}")

    def caption(self, name: str = "prompt") -> str:
        """A text that says something."""
        text = self.get(name, kind=str)
        if not text.strip():
            self.fail(name, "is empty", "a pair is judged by its caption")
        if not is_unicode(text):
            self.fail(name, "is no Unicode text", "write it in UTF-8")
        return text

    def texts(self, *names: str, length: int | None = None) -> list[str]:
        """A list of strings, `length` of them where it is given."""
        return self._sequence(names, str, length)

    def numbers(self, *names: str, length: int | None = None) -> list[float]:
        """A list of numbers, `length` of them where it is given."""
        values = [_as_float(x) for x in self._sequence(names, (int, float), length)]
        if not all(map(math.isfinite, values)):
            self.fail(" or ".join(names), f"is {values}", "expected finite numbers")
        return values

    def number(self, name: str) -> float:
        """A finite number."""
        value = _as_float(self.get(name, kind=(int, float)))
        if not math.isfinite(value):
            self.fail(name, f"is {value}", "expected a finite number")
        return value

    def count(self, name: str) -> float:
        """How many: a whole number from 0 on."""
        value = self.number(name)
        if value < 0 or value != int(value):
            self.fail(name, f"is {value:g}", "expected a count: a whole number from 0 on")
        return value

    def counts(self, name: str, length: int | None = None) -> list[float]:
        """A list of whole numbers from 0 on, `length` of them where it is given."""
        values = self.numbers(name, length=length)
        if any(value < 0 or value != int(value) for value in values):
            self.fail(name, f"is {values}", "expected counts: whole numbers from 0 on")
        return values

    def parsed(self, name: str) -> Any:
        """What a text that is JSON says."""
        try:
            return json.loads(self.get(name, kind=str))
        except (ValueError, RecursionError) as error:
            self.fail(name, f"is not JSON ({error})", "fetch the file again")

    def _sequence(self, names, kind, length) -> list:
        values = list(self.get(*names, kind=(list, tuple)))
        name = next(name for name in names if name in self.fields)
        if any(not isinstance(x, kind) or isinstance(x, bool) for x in values):
            self.fail(name, f"is {values!r}", f"expected a list of {_type_name(kind)}")
        if length is not None and len(values) != length:
            self.fail(name, f"has {len(values)} entries", f"expected {length}")
        return values

    def fail(self, name: str, problem: str, remedy: str) -> NoReturn:
        """Raises SourceError about the field `name`."""
        raise SourceError(f"{self.place}: field {name!r} {problem}; {remedy}")


def _as_float(number: int | float) -> float:
    """Infinite where it is too large."""
    try:
        return float(number)
    except OverflowError:
        return math.inf


def _type_name(kind: type | tuple[type, ...]) -> str:
    kinds = kind if isinstance(kind, tuple) else (kind,)
    return " or ".join(k.__name__ for k in kinds)


def read_json(folder: InputFolder, ref: FileRef, key: str | None = None) -> list[Record]:
    """Records of a JSON file that holds a list of objects, or an object with that list under `key`.

    Raises:
      SourceError: not JSON, or not a list of objects.
    """
    place = folder.place(ref)
    rows = _parse(_text(folder, ref), place)
    if key is not None:
        rows = _record(rows, place).get(key, kind=list)
    if not isinstance(rows, list):
        raise SourceError(f"{place}: holds a {type(rows).__name__}, expected a list of records")
    return [_record(row, f"{place}, record {i}") for i, row in enumerate(rows)]


def read_json_lines(folder: InputFolder, ref: FileRef, bad: BadRecords) -> list[Record]:
    """Records of a file with one JSON object per line; empty lines are passed over."""
    lines = _text(folder, ref).split("\n")  # splitlines cuts inside captions too
    place = folder.place(ref)
    places = {f"{place}, line {n}": line for n, line in enumerate(lines, start=1) if line.strip()}
    records = (bad.try_to(_line, line, place) for place, line in places.items())
    return [record for record in records if record is not None]


def _line(line: str, place: str) -> Record:
    return _record(_parse(line, place), place)


def read_csv(folder: InputFolder, ref: FileRef) -> list[Record]:
    """Records of a CSV file whose first row names the columns; all values are texts.

    Raises:
      SourceError: not CSV, or a row of another length.
    """
    place = folder.place(ref)
    try:
        rows = list(csv.reader(io.StringIO(_text(folder, ref), newline=""), strict=True))
    except csv.Error as error:
        raise SourceError(f"{place}: not CSV ({error}); mend it") from None
    names = rows[0] if rows else []
    for i, row in enumerate(rows[1:]):
        if len(row) != len(names):
            raise SourceError(
                f"{place}, record {i}: has {len(row)} values for {len(names)} columns; put values "
                "with commas in double quotes"
            )
    return [
        Record(dict(zip(names, row, strict=True)), f"{place}, record {i}")
        for i, row in enumerate(rows[1:])
    ]


@dataclasses.dataclass(frozen=True)
class Table:
    """A parquet file's records, without the columns that hold images.

    Attributes:
      records: `row` of each is its row in the file.
      unread: columns that nobody asked for.
    """

    records: list[Record]
    unread: tuple[str, ...]


def read_parquet(
    folder: InputFolder,
    ref: FileRef,
    columns: Sequence[str],
    bad: BadRecords,
    optional: Sequence[str] = (),
) -> Table:
    """Reads some columns of a parquet file.

    Args:
      folder: with the data set.
      ref: of the file, which is not in an archive.
      columns: that must be there; those that are not read, such as images, end in `!`.
      optional: that are read where they are there, likewise; those that end in `!` are known.
      bad: told of rows whose text cannot be read.

    Raises:
      SourceError: not a readable parquet file, or one that lacks a column.
    """
    from pyarrow import parquet

    place, known = folder.place(ref), {name.rstrip("!") for name in (*columns, *optional)}
    has = parquet_schema(folder, ref).names
    if missing := [name.rstrip("!") for name in columns if name.rstrip("!") not in has]:
        raise SourceError(
            f"{place}: lacks the columns {', '.join(missing)}; it has {', '.join(has) or 'none'}, "
            "so this is another data set, or another version of it"
        )
    texts = [name for name in (*columns, *optional) if name in has]
    with _readable(place):
        rows = _rows(parquet.read_table(folder.path(ref), columns=texts), place, bad)
    records = [Record(row, f"{place}, record {i}", i) for i, row in rows]
    return Table(records, tuple(name for name in has if name not in known))


def parquet_schema(folder: InputFolder, ref: FileRef) -> "pyarrow.Schema":
    """Columns of a parquet file, and what they hold.

    Raises:
      SourceError: not a readable parquet file.
    """
    from pyarrow import parquet

    with _readable(folder.place(ref)):
        return parquet.read_schema(folder.path(ref))


@contextlib.contextmanager
def _readable(place: str) -> Iterator[None]:
    from pyarrow import ArrowException

    try:
        yield
    except (ArrowException, OSError) as error:
        pass_on_limits(error, place)
        raise SourceError(
            f"{place}: not a readable parquet file ({error}); fetch it again"
        ) from None


def _rows(table, place: str, bad: BadRecords) -> list[tuple[int, dict[str, Any]]]:
    """Rows with their numbers, but for those whose text is not UTF-8."""
    try:
        return list(enumerate(table.to_pylist()))
    except UnicodeDecodeError:
        alone = (table.slice(i, 1) for i in range(len(table)))
        rows = [(i, bad.try_to(_row, row, f"{place}, record {i}")) for i, row in enumerate(alone)]
        return [(i, row) for i, row in rows if row is not None]


def _row(row, place: str) -> dict[str, Any]:
    try:
        return row.to_pylist()[0]
    except UnicodeDecodeError as error:
        raise SourceError(f"{place}: holds text that is not UTF-8 ({error})") from None


def unread_note(tables: Sequence[Table]) -> tuple[str, ...]:
    """What to say of columns that nobody asked for."""
    names = dict.fromkeys(name for table in tables for name in table.unread)
    return (f"columns that are not read: {', '.join(names)}",) if names else ()


def _text(folder: InputFolder, ref: FileRef) -> str:
    """Bytes that are no UTF-8 become halves of characters: the record that has them tells."""
    text = folder.read(ref).decode("utf-8", "surrogateescape")
    return text.removeprefix("\ufeff")  # with which spreadsheets begin a file


def _parse(text: str, place: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:  # also of numbers and depths beyond Python's
        raise SourceError(f"{place}: not JSON ({error}); fetch the file again") from None


def _record(row: Any, place: str) -> Record:
    if not isinstance(row, dict):
        raise SourceError(f"{place}: is a {type(row).__name__}, expected an object with fields")
    return Record(row, place)


def group_by(
    records: Sequence[Record],
    name: str,
    bad: BadRecords,
    kind: type | tuple[type, ...] = (str, int),
) -> dict[Any, list[Record]]:
    """Records by the value of a field, in the order in which the values first appear."""
    groups: dict[Any, list[Record]] = {}
    for record in records:
        value = bad.try_to(record.get, name, kind=kind)
        if value is not None:
            groups.setdefault(value, []).append(record)
    return groups
