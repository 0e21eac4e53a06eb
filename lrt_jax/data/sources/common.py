"""What all source adapters share: reading records, and saying precisely what is wrong with one."""

import contextlib
import dataclasses
import itertools
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lrt_jax.data.schema import Group

Pair = tuple[int, int, float, float]


class SourceError(ValueError):
    """A source whose files are missing or not in the published layout."""


@dataclasses.dataclass(frozen=True)
class SourceData:
    """What an adapter found.

    Attributes:
      groups: in the source's order.
      layout: which of the source's layouts was read, for the report.
      notes: what was left out or assumed, one sentence each.
      beside: files that go with the data and are kept beside the prepared tables.
      bad_records: what is wrong with the records whose groups were left out.
    """

    groups: list[Group]
    layout: str
    notes: tuple[str, ...] = ()
    beside: tuple[Path, ...] = ()
    bad_records: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Record:
    """One JSON object, with the place it was read from for errors."""

    fields: Mapping[str, Any]
    place: str  # file and record

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
        if any("\ud800" <= character <= "\udfff" for character in text):
            self.fail(name, "holds half a character", "expected Unicode text")
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

    def _sequence(self, names, kind, length) -> list:
        values = list(self.get(*names, kind=(list, tuple)))
        name = next(name for name in names if name in self.fields)
        if any(not isinstance(x, kind) or isinstance(x, bool) for x in values):
            self.fail(name, f"is {values!r}", f"expected a list of {_type_name(kind)}")
        if length is not None and len(values) != length:
            self.fail(name, f"has {len(values)} entries", f"expected {length}")
        return values

    def fail(self, name: str, problem: str, remedy: str) -> None:
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


def read_json(path: Path) -> list[Record]:
    """Records of a JSON file that holds a list of objects.

    Raises:
      SourceError: not JSON, or not a list of objects.
    """
    return _records(_parse(_text(path), path), path)


def read_json_lines(path: Path) -> list[Record]:
    """Records of a file with one JSON object per line; empty lines are passed over."""
    lines = _text(path).split("\n")  # splitlines cuts inside captions too
    places = {f"{path}, line {n}": line for n, line in enumerate(lines, start=1) if line.strip()}
    return [_record(_parse(line, place), place) for place, line in places.items()]


def read_parquet(path: Path) -> list[Record]:
    """Records of a parquet file."""
    from pyarrow import ArrowException, parquet

    try:
        rows = parquet.read_table(path).to_pylist()
    except (ArrowException, OSError) as error:
        raise SourceError(
            f"{path}: not a readable parquet file ({error}); fetch it again"
        ) from None
    return _records(rows, path)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise SourceError(f"{path}: not UTF-8 ({error}); fetch the file again") from None


def _parse(text: str, place: Path | str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:  # also of numbers and depths beyond Python's
        raise SourceError(f"{place}: not JSON ({error}); fetch the file again") from None


def _records(rows: Any, path: Path) -> list[Record]:
    if not isinstance(rows, list):
        raise SourceError(f"{path}: holds a {type(rows).__name__}, expected a list of records")
    return [_record(row, f"{path}, record {i}") for i, row in enumerate(rows)]


def _record(row: Any, place: str) -> Record:
    if not isinstance(row, dict):
        raise SourceError(f"{place}: is a {type(row).__name__}, expected an object with fields")
    return Record(row, place)


class BadRecords:
    """Collects what is wrong with records, so that all of it is told at once, or left out."""

    def __init__(self):
        self.problems: list[str] = []

    def groups(self, make: Callable[..., Group], each: Iterable[tuple]) -> list[Group]:
        """A group for each tuple of arguments, but for those with a bad record."""
        found = (self.try_to(make, *arguments) for arguments in each)
        return [group for group in found if group is not None]

    def group_by(
        self, records: Sequence[Record], name: str, kind: type | tuple[type, ...] = (str, int)
    ) -> dict[Any, list[Record]]:
        """Records by the value of a field, in the order in which the values first appear."""
        groups: dict[Any, list[Record]] = {}
        for record in records:
            value = self.try_to(record.get, name, kind=kind)
            if value is not None:
                groups.setdefault(value, []).append(record)
        return groups

    def try_to(self, read: Callable, *arguments, **options) -> Any:
        """What `read` returns; None where it meets a bad record, whose problem is kept."""
        try:
            return read(*arguments, **options)
        except SourceError as error:
            self.problems.append(str(error))
            return None

    def refuse(self) -> None:
        """Raises SourceError about the first, if there are any."""
        if self.problems:
            more = f" ({len(self.problems) - 1} more)" if self.problems[1:] else ""
            raise SourceError(
                f"{self.problems[0]}{more}; mend it, or leave such groups out with "
                "on_bad_example=skip"
            )


def find_image(name: str, folders: Sequence[Path]) -> str:
    """Path of an image in the first of `folders` that has it, also without its own folders.

    A file that is nowhere is given the place where it was expected: what to do about it is for the
    builder to say, which may be told to go on without it.
    """
    for folder, part in itertools.product(folders, dict.fromkeys((name, Path(name).name))):
        with contextlib.suppress(OSError):  # of a name that no file can have
            if (folder / part).is_file():
                return str(folder / part)
    return str(folders[0] / name)


def single_vote(first_rank: float, second_rank: float) -> tuple[float, float]:
    """The votes of one annotator, given ranks (1 is best): the vote is split for a tie."""
    if first_rank == second_rank:
        return 0.5, 0.5
    return (1.0, 0.0) if first_rank < second_rank else (0.0, 1.0)


def pairs_of_ranking(ranks: Sequence[float]) -> tuple[Pair, ...]:
    """Every pair of a ranking by one annotator, the earlier image first."""
    return tuple(
        (i, j, *single_vote(ranks[i], ranks[j]))
        for i, j in itertools.combinations(range(len(ranks)), 2)
    )
