"""What a data set is: how it is read, what is found in it, and where it is published."""

import dataclasses
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

from lrt_jax.data.schema import Group
from lrt_jax.data.sources.errors import ArchiveError, SourceError
from lrt_jax.data.sources.files import InputFolder

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class SourceData:
    """What an adapter found."""

    groups: list[Group]  # in the source's order
    layout: str  # which of the source's layouts was read, for the report
    notes: tuple[str, ...] = ()  # what was left out or assumed, one sentence each
    # Files that go with the data and are kept beside the prepared tables.
    beside: tuple[Path, ...] = ()
    bad_records: tuple[str, ...] = ()  # what is wrong with the records whose groups were left out
    # Whether pictures that look the same are one, and captions that read nearly the same belong
    # together. Not so where a program drew them to differ in a detail.
    near_is_same: bool = True


class BadRecords:
    """Collects errors in records, which are then raised together, or the records skipped.

    Attributes:
      problems: what is wrong, each once: a source may read a record for several groups.
    """

    def __init__(self):
        self.problems: list[str] = []
        self._told: set[str] = set()

    def all_of(self, read: Callable[..., T], each: Iterable[tuple]) -> list[T]:
        """What `read` makes of each tuple of arguments, but for those with a bad record."""
        found = (self.try_to(read, *arguments) for arguments in each)
        return [thing for thing in found if thing is not None]

    def try_to(self, read: Callable, *arguments, **options) -> Any:
        """What `read` returns; None where it meets a bad record, whose problem is kept.

        Raises:
          ArchiveError: an archive cannot be read, on which every other record would founder too.
        """
        try:
            return read(*arguments, **options)
        except ArchiveError:
            raise
        except SourceError as error:
            if str(error) not in self._told:
                self._told.add(str(error))
                self.problems.append(str(error))
            return None

    def refuse(self) -> None:
        """Raises SourceError about the first, if there are any."""
        if self.problems:
            more = f" ({len(self.problems) - 1} more)" if self.problems[1:] else ""
            raise SourceError(
                f"{self.problems[0]}{more}; mend it, or leave such records out with "
                "on_bad_example=skip"
            )


@dataclasses.dataclass(frozen=True)
class Source:
    """A preference data set.

    Attributes:
      name: by which configs and commands know it; one of your own is known by
        package.module:SOURCE.
      read: reads its folder, in the layout in which it is published.
      hub_id: `owner/name` on the Hugging Face Hub; None where it is not there, and then `by_hand`
        says what to do.
      licence: as it is stated there; None where that is unclear.
      gigabytes: of what is fetched, about.
      patterns: files that are fetched of this and of other Hub ids of the source.
      by_hand: where it comes from otherwise.
      about: what a model card says of it, where it is not on the Hub.
      test_splits: its splits that are published for testing: figures of others are of them, so that
        nothing is trained on them.
    """

    name: str
    read: Callable[[InputFolder, BadRecords], SourceData]
    hub_id: str | None = None
    licence: str | None = None
    gigabytes: float | None = None
    patterns: tuple[str, ...] = ("*",)
    by_hand: str = ""
    about: str = ""
    test_splits: tuple[str, ...] = ()
