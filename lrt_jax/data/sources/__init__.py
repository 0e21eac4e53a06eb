"""Source adapters: published preference data sets to groups of images with their votes."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

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
from lrt_jax.data.sources.bad_records import BadRecords
from lrt_jax.data.sources.checking import check_group
from lrt_jax.data.sources.common import SourceData
from lrt_jax.data.sources.files import InputFolder, SourceError
from lrt_jax.data.sources.published import publication

__all__ = ["SOURCES", "InputFolder", "SourceData", "SourceError", "read_groups", "read_source"]

SOURCES: dict[str, Callable[[InputFolder, BadRecords], SourceData]] = {
    "hpdv2": hpdv2.read,
    "hpdv3": hpdv3.read,
    "imagereward": imagereward.read,
    "pickapic": pickapic.read,
    "rapidata": rapidata.read,
    "genai_bench": genai_bench.read,
    "mmrb2": mmrb2.read,
    "folder": folder.read,
    "scenes": scenes.read,
}


def read_source(
    source: str,
    path: str | Path,
    *,
    skip_bad: bool = False,
    image_root: str | Path | None = None,
) -> SourceData:
    """Reads a downloaded data set.

    Args:
      source: a name in `SOURCES`.
      path: its folder.
      skip_bad: whether groups with a record that is not as it should be are left out.
      image_root: see `InputFolder`.

    Raises:
      SourceError: an unknown source, no such folder, or files that are not in the published
        layout; the message names file, record, field and remedy.
    """
    publication(source)  # refuses a name that there is not
    bad = BadRecords()
    data = SOURCES[source](InputFolder(path, image_root), bad)
    groups = bad.groups(check_group, ((group, str(path)) for group in data.groups))
    if not skip_bad:
        bad.refuse()
    if not groups:
        raise SourceError(f"{path}: {data.layout} holds no records that can be used")
    return dataclasses.replace(data, groups=groups, bad_records=tuple(bad.problems))


def read_groups(source: str, path: str | Path) -> list[Group]:
    """The groups of `read_source`."""
    return read_source(source, path).groups
