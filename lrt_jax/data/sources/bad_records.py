"""Records that are not as they should be: all of them are told at once, or left out."""

from collections.abc import Callable, Iterable
from typing import Any

from lrt_jax.data.schema import Group
from lrt_jax.data.sources.errors import ArchiveError, SourceError


class BadRecords:
    """Collects what is wrong with records, so that all of it is told at once, or left out.

    Attributes:
      problems: what is wrong, each once: a source may read a record for several groups.
    """

    def __init__(self):
        self.problems: list[str] = []
        self._told: set[str] = set()

    def groups(self, make: Callable[..., Group], each: Iterable[tuple]) -> list[Group]:
        """A group for each tuple of arguments, but for those with a bad record."""
        found = (self.try_to(make, *arguments) for arguments in each)
        return [group for group in found if group is not None]

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
