"""Source adapters: published preference data sets to groups of images with their votes."""

import dataclasses
import difflib
import importlib
from collections.abc import Iterator
from pathlib import Path

from lrt_jax.config import Config
from lrt_jax.data.schema import Group
from lrt_jax.data.sources import (
    folder,
    genai_bench,
    hpdv2,
    hpdv3,
    imagereward,
    mmrb2,
    pickapic,
    rapidata,
    scenes,
)
from lrt_jax.data.sources.checking import check_group
from lrt_jax.data.sources.files import InputFolder, SourceError
from lrt_jax.data.sources.source import BadRecords, Source, SourceData

__all__ = [
    "SOURCES",
    "InputFolder",
    "Source",
    "SourceData",
    "SourceError",
    "find_source",
    "read_groups",
    "read_source",
    "source_problems",
    "published_test_splits",
]

SOURCES = {
    source.name: source
    for source in (
        hpdv2.SOURCE,
        hpdv3.SOURCE,
        imagereward.SOURCE,
        pickapic.SOURCE,
        rapidata.SOURCE,
        genai_bench.SOURCE,
        mmrb2.SOURCE,
        folder.SOURCE,
        scenes.SOURCE,
    )
}


def find_source(name: str) -> Source:
    """A data set by its name in `SOURCES`, or one of your own by `package.module:SOURCE`.

    The latter is imported: to be called with what a person has named, never with what data say.

    Raises:
      SourceError: there is none of that name.
    """
    if name in SOURCES:
        return SOURCES[name]
    module, _, attribute = name.partition(":")
    if not attribute:
        near = difflib.get_close_matches(name.lower(), SOURCES, n=1, cutoff=0.4)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise SourceError(
            f"unknown source {name!r}: {hint}known are {', '.join(SOURCES)}, and "
            "package.module:SOURCE for one of your own"
        )
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise SourceError(f"source {name!r} cannot be imported: {error}") from error
    if not isinstance(found, Source):
        raise SourceError(f"source {name!r} is no lrt_jax.data.sources.source.Source")
    return found


def published_test_splits(name: str) -> tuple[str, ...]:
    """Splits that a source publishes for testing; none is known of one of somebody's own."""
    return SOURCES[name].test_splits if name in SOURCES else ()


def source_problems(config: Config) -> Iterator[str]:
    """What is wrong with the names of a config's data sets; for `parse_config`."""
    for i, data_set in enumerate(config.data_sets):
        try:
            find_source(data_set.source)
        except SourceError as error:
            yield f"data.{f'others[{i - 1}].' if i else ''}source: {error}"


def read_source(
    source: str, path: str | Path, *, skip_bad: bool = False, image_root: str | Path | None = None
) -> SourceData:
    """Reads a downloaded data set.

    Args:
      source: as `find_source` takes it.
      path: its folder.
      skip_bad: whether groups with a record that is not as it should be are left out.
      image_root: see `InputFolder`.

    Raises:
      SourceError: an unknown source, no such folder, or files that are not in the published
        layout; the message names file, record, field and remedy.
    """
    bad = BadRecords()
    data = find_source(source).read(InputFolder(path, image_root), bad)
    groups = bad.all_of(check_group, ((group, str(path)) for group in data.groups))
    if not skip_bad:
        bad.refuse()
    if not groups:
        raise SourceError(f"{path}: {data.layout} holds no records that can be used")
    return dataclasses.replace(data, groups=groups, bad_records=tuple(bad.problems))


def read_groups(source: str, path: str | Path) -> list[Group]:
    """The groups of `read_source`."""
    return read_source(source, path).groups
