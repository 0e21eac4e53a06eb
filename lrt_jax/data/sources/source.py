"""What is known of a data set: how it is read, and where it is published."""

import dataclasses
from collections.abc import Callable

from lrt_jax.data.sources.bad_records import BadRecords
from lrt_jax.data.sources.common import SourceData
from lrt_jax.data.sources.files import InputFolder


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
