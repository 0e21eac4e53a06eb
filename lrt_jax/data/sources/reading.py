"""Tables of records in the files of a data set, and saying precisely what is wrong with one."""

import contextlib
import csv
import dataclasses
import io
import json
import math
import reprlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from lrt_jax.data.schema import FileRef
from lrt_jax.data.sources.checking import is_unicode
from lrt_jax.data.sources.files import InputFolder, SourceError
from lrt_jax.data.sources.limits import (
    CAPTION_CHARACTERS,
    LINE_CHARACTERS,
    RANKED_IMAGES,
    unpacked_bytes,
)
from lrt_jax.data.sources.row_batches import row_batches
from lrt_jax.data.sources.source import BadRecords
from lrt_jax.storage.disk import pass_on_limits

if TYPE_CHECKING:
    import pyarrow


SHOWN_NAMES = 1000  # characters, of the fields that a record has
_QUOTED = reprlib.Repr()  # a value in an error: little of it where it is long or deep
_QUOTED.maxstring = _QUOTED.maxother = 60


@dataclasses.dataclass(frozen=True)
class Record:
    """One object of a table, with the origin of its fields for errors."""

    fields: Mapping[str, Any]
    origin: str  # file and record
    row: int = -1  # of a parquet file or a list of JSON
    # What the file calls fields that have another name here.
    called: Mapping[str, str] = dataclasses.field(default_factory=dict)

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
                    self.fail(name, f"is {quoted(value)}", f"expected {_type_name(kind)}")
                return value
        has = ", ".join(str(self.called.get(name, name)) for name in self.fields)
        has = has[:SHOWN_NAMES] or "nothing"
        self.fail(" or ".join(names), "is missing", f"the record has {has}")

    def caption(self, name: str = "prompt") -> str:
        """A text that says something."""
        text = self.get(name, kind=str)
        if not text.strip():
            self.fail(name, "is empty", "a pair is judged by its caption")
        if not is_unicode(text):
            self.fail(name, "is no Unicode text", "write it in UTF-8")
        if len(text) > CAPTION_CHARACTERS:
            self.fail(
                name,
                f"has {len(text):,} characters",
                f"a caption has at most {CAPTION_CHARACTERS:,}: shorten it",
            )
        return text

    def check_ranked(self, name: str, count: int) -> None:
        """Refuses more images than can all be compared with one another.

        Args:
          name: of the field that names them.
          count: of images.

        Raises:
          SourceError: there are less than two, or more than `RANKED_IMAGES`.
        """
        if count < 2:
            self.fail(name, f"names {count} images", "a group has at least two")
        if count > RANKED_IMAGES:
            self.fail(
                name,
                f"names {count:,} images",
                f"a group has at most {RANKED_IMAGES}: compare fewer at a time",
            )

    def texts(self, *names: str, length: int | None = None) -> list[str]:
        """A list of strings, `length` of them where it is given."""
        return self._sequence(names, str, length)

    def numbers(self, *names: str, length: int | None = None) -> list[float]:
        """A list of numbers, `length` of them where it is given."""
        values = [_as_float(x) for x in self._sequence(names, (int, float), length)]
        if not all(map(math.isfinite, values)):
            self.fail(" or ".join(names), f"is {quoted(values)}", "expected finite numbers")
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
            self.fail(name, f"is {quoted(values)}", "expected counts: whole numbers from 0 on")
        return values

    def objects(self, name: str) -> list["Record"]:
        """A list of objects with fields of their own."""
        values = self.get(name, kind=list)
        return [_record(x, f"{self.origin}, {name}[{i}]") for i, x in enumerate(values)]

    def parsed(self, name: str) -> Any:
        """What a text that is JSON says."""
        try:
            return _loads(self.get(name, kind=str))
        except (ValueError, RecursionError) as error:
            self.fail(name, f"is not JSON ({error})", "fetch the file again")

    def _sequence(self, names, kind, length) -> list:
        values = list(self.get(*names, kind=(list, tuple)))
        name = next(name for name in names if name in self.fields)
        if any(not isinstance(x, kind) or isinstance(x, bool) for x in values):
            self.fail(name, f"is {quoted(values)}", f"expected a list of {_type_name(kind)}")
        if length is not None and len(values) != length:
            self.fail(name, f"has {len(values)} entries", f"expected {length}")
        return values

    def fail(self, name: str, problem: str, remedy: str) -> NoReturn:
        """Raises SourceError about the field `name`, which it calls as the file does."""
        name = self.called.get(name, name)
        raise SourceError(f"{self.origin}: field {name!r} {problem}; {remedy}")


def quoted(value: Any) -> str:
    """A value as an error shows it."""
    return _QUOTED.repr(value)


def _as_float(number: int | float) -> float:
    """Infinite where it is too large."""
    try:
        return float(number)
    except OverflowError:
        return math.inf


def _type_name(kind: type | tuple[type, ...]) -> str:
    kinds = kind if isinstance(kind, tuple) else (kind,)
    return " or ".join(k.__name__ for k in kinds)


def read_json(
    folder: InputFolder, ref: FileRef, bad: BadRecords, key: str | None = None
) -> list[Record]:
    """Records of a JSON file that holds a list of objects, or an object with that list under `key`.

    Args:
      folder: with the data set.
      ref: of the file.
      bad: collects entries that are no objects.
      key: of the list.

    Raises:
      SourceError: not JSON, or no list.
    """
    origin = folder.origin(ref)
    rows = _parse(_text(folder, ref), origin)
    if key is not None:
        rows = _record(rows, origin).get(key, kind=list)
    if not isinstance(rows, list):
        raise SourceError(f"{origin}: holds a {type(rows).__name__}, expected a list of records")
    each = ((row, f"{origin}, record {i}", i) for i, row in enumerate(rows))
    return bad.all_of(_record, each)


def read_json_lines(folder: InputFolder, ref: FileRef, bad: BadRecords) -> list[Record]:
    """Records of a file with one JSON object per line; empty lines are passed over."""
    lines = _text(folder, ref).split("\n")  # splitlines cuts inside captions too
    origin = folder.origin(ref)
    numbered = enumerate(lines, start=1)
    return bad.all_of(_line, ((x, f"{origin}, line {n}") for n, x in numbered if x.strip()))


def _line(line: str, origin: str) -> Record:
    if len(line) > LINE_CHARACTERS:
        raise SourceError(
            f"{origin}: has {len(line):,} characters, of which at most {LINE_CHARACTERS:,} are "
            "read; write one record a line"
        )
    return _record(_parse(line, origin), origin)


def read_csv(folder: InputFolder, ref: FileRef, bad: BadRecords) -> list[Record]:
    """Records of a CSV file whose first row names the columns; all values are texts.

    Args:
      folder: with the data set.
      ref: of the file.
      bad: collects rows of another length.

    Raises:
      SourceError: not CSV, or two columns of a name.
    """
    origin = folder.origin(ref)
    try:
        reader = csv.reader(io.StringIO(_text(folder, ref), newline=""), strict=True)
        rows = list(reader)
    except csv.Error as error:
        raise SourceError(f"{origin}, line {reader.line_num}: not CSV ({error}); mend it") from None
    names = rows[0] if rows else []
    _check_columns(names, origin)
    each = ((names, row, f"{origin}, record {i}") for i, row in enumerate(rows[1:]))
    return bad.all_of(_values, each)


def _values(names: Sequence[str], row: Sequence[str], origin: str) -> Record:
    if len(row) != len(names):
        raise SourceError(
            f"{origin}: has {len(row)} values for {len(names)} columns; put values with commas in "
            "double quotes"
        )
    return Record(dict(zip(names, row, strict=True)), origin)


def _check_columns(names: Sequence[str], origin: str) -> None:
    """Raises SourceError where two columns have one name, of which only one would be read."""
    again = next((name for i, name in enumerate(names) if name and name in names[:i]), None)
    if again is not None:
        raise SourceError(f"{origin}: has two columns {again!r}; rename or remove one of them")


def read_parquet(
    folder: InputFolder,
    ref: FileRef,
    columns: Sequence[str],
    bad: BadRecords,
    optional: Sequence[str] = (),
) -> tuple[list[Record], list[str]]:
    """Reads some columns of a parquet file.

    Args:
      folder: with the data set.
      ref: of the file, which is not in an archive.
      columns: that must be there; those that are not read, such as images, end in `!`.
      optional: that are read where they are there, likewise; those that end in `!` are known.
      bad: collects rows whose text cannot be read.

    Returns:
      Records without the columns that hold images, `row` of each its row in the file; and the names
      of the columns that nobody asked for.

    Raises:
      SourceError: not a readable parquet file, or one that lacks a column.
    """
    from pyarrow import parquet

    origin, known = folder.origin(ref), {name.rstrip("!") for name in (*columns, *optional)}
    has = parquet_schema(folder, ref).names
    _check_columns(has, origin)
    if missing := [name.rstrip("!") for name in columns if name.rstrip("!") not in has]:
        raise SourceError(
            f"{origin}: lacks the columns {', '.join(missing)}; it has {', '.join(has) or 'none'}, "
            "so this is another data set, or another version of it"
        )
    texts = [name for name in (*columns, *optional) if name in has]
    path, records, size = folder.path(ref), [], 0
    with _readable(origin), parquet.ParquetFile(path) as file:
        for first, batch in row_batches(file, path, texts):
            size += batch.nbytes
            if size > unpacked_bytes(path.stat().st_size):
                raise SourceError(
                    f"{origin}: its texts have more than {size:,} bytes; write it anew, or split it"
                )
            records += _rows(batch, first, origin, bad)
    return records, [name for name in has if name not in known]


def parquet_schema(folder: InputFolder, ref: FileRef) -> "pyarrow.Schema":
    """Columns of a parquet file, and what they hold.

    Raises:
      SourceError: not a readable parquet file.
    """
    from pyarrow import parquet

    with _readable(folder.origin(ref)):
        return parquet.read_schema(folder.path(ref))


@contextlib.contextmanager
def _readable(origin: str) -> Iterator[None]:
    try:
        yield
    except SourceError:
        raise
    except Exception as error:  # of damaged files: pyarrow's, and those of decoding names
        pass_on_limits(error, origin)
        raise SourceError(
            f"{origin}: not a readable parquet file ({error}); fetch it again"
        ) from None


def _rows(batch, first: int, origin: str, bad: BadRecords) -> list[Record]:
    """Rows, numbered from `first` on, but for those that are not what they declare."""
    origins = [(f"{origin}, record {i}", i) for i in range(first, first + len(batch))]
    try:
        return [Record(row, *at) for row, at in zip(batch.to_pylist(), origins, strict=True)]
    except (ValueError, OverflowError):
        alone = ((batch.slice(i, 1), *at) for i, at in enumerate(origins))
        return bad.all_of(_row, alone)


def _row(row, origin: str, number: int) -> Record:
    try:
        return Record(row.to_pylist()[0], origin, number)
    except UnicodeDecodeError as error:
        raise SourceError(f"{origin}: holds text that is not UTF-8 ({error})") from None
    except (ValueError, OverflowError) as error:  # a time beyond Python's, for example
        raise SourceError(f"{origin}: holds a value that cannot be read ({error})") from None


def unread_note(names: Iterable[str]) -> tuple[str, ...]:
    """What to say of columns that nobody asked for."""
    listed = ", ".join(dict.fromkeys(names))
    return (f"columns that are not read: {listed}",) if listed else ()


def _text(folder: InputFolder, ref: FileRef) -> str:
    """Bytes that are no UTF-8 become halves of characters: the record that has them tells."""
    text = folder.read(ref).decode("utf-8", "surrogateescape")
    return text.removeprefix("\ufeff")  # with which spreadsheets begin a file


def _parse(text: str, origin: str) -> Any:
    try:
        return _loads(text)
    except (ValueError, RecursionError) as error:  # also of numbers and depths beyond Python's
        raise SourceError(f"{origin}: not JSON ({error}); fetch the file again") from None


def _loads(text: str) -> Any:
    """What JSON says; raises ValueError or RecursionError where it is none, or too deep."""
    return json.loads(text, object_pairs_hook=_unique)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        keys = [key for key, _ in pairs]
        again = next(key for i, key in enumerate(keys) if key in keys[:i])
        raise ValueError(f"the key {again[:100]!r} is there twice")
    return fields


def _record(row: Any, origin: str, number: int = -1) -> Record:
    if not isinstance(row, dict):
        raise SourceError(f"{origin}: is a {type(row).__name__}, expected an object with fields")
    return Record(row, origin, number)


def group_by(
    records: Sequence[Record],
    name: str,
    bad: BadRecords,
    kind: type | tuple[type, ...] = (str, int),
) -> dict[str, list[Record]]:
    """Records by the text or number in a field, in the order in which the values first appear."""
    groups: dict[str, list[Record]] = {}
    for record in records:
        value = bad.try_to(record.get, name, kind=kind)
        if value is not None:
            groups.setdefault(str(value), []).append(record)
    return groups
