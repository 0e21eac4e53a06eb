"""Scenes drawn by `lrt_jax.data.scenes`: ImageRewardDB's layout, and files of their own."""

import dataclasses

from lrt_jax.config.scenes import TRACES, TRUTH
from lrt_jax.data.sources import imagereward
from lrt_jax.data.sources.files import InputFolder, SourceError
from lrt_jax.data.sources.source import BadRecords, Source, SourceData


def read(folder: InputFolder, bad: BadRecords) -> SourceData:
    """Reads a folder that `write_scenes` made.

    Raises:
      SourceError: a file is missing, or a record is not in its layout.
    """
    root = folder.root
    if not (root / TRUTH).is_file():
        raise SourceError(
            f"{root}: no {TRUTH}, so these are no drawn scenes; for other data name their "
            "data.source, and for scenes leave out data.path, then they are drawn"
        )
    if not (root / TRACES).is_file():
        raise SourceError(f"{root}: no {TRACES}, so it is not whole; remove it and draw it again")
    data = imagereward.read(folder, bad)
    return dataclasses.replace(data, beside=(root / TRUTH, root / TRACES), near_is_same=False)


SOURCE = Source(
    name="scenes",
    read=read,
    by_hand="they are drawn, not fetched: name a folder of them",
    about="pictures of shapes, drawn by lrt_jax",
)
