"""Where the data sets are published."""

import dataclasses
import difflib

from lrt_jax.data.sources.errors import SourceError


@dataclasses.dataclass(frozen=True)
class Published:
    """A data set on the Hugging Face Hub.

    Attributes:
      hub_id: `owner/name`; None where it is not on the Hub, and then `by_hand` says what to do.
      licence: as it is stated there; None where that is unclear.
      gigabytes: of what is fetched, about.
      patterns: files that are fetched of this and of other Hub ids of the source.
      by_hand: where it comes from otherwise.
      test_splits: its splits that are published for testing: figures of others are of them, so that
        nothing is trained on them.
    """

    hub_id: str | None
    licence: str | None = None
    gigabytes: float | None = None
    patterns: tuple[str, ...] = ("*",)
    by_hand: str = ""
    test_splits: tuple[str, ...] = ()


PARQUET = ("*.parquet",)
PUBLISHED = {
    "hpdv2": Published(
        "ymhao/HPDv2",
        "Apache-2.0",
        32,
        ("train.json", "test.json", "train.tar.gz", "test.tar.gz"),
        test_splits=("test",),
    ),
    "hpdv3": Published(
        "MizzenAI/HPDv3",
        "MIT",
        141,
        ("train.json", "test.json", "images.tar.gz.*"),
        test_splits=("test",),
    ),
    "imagereward": Published(
        "zai-org/ImageRewardDB",
        "Apache-2.0",
        23,
        ("metadata-*.parquet", "images/*.zip"),
        test_splits=("test",),
    ),
    "pickapic": Published(
        None,
        patterns=PARQUET,
        by_hand="its authors withdrew it from the Hub; name the folder of a copy, or the Hub id of "
        "one (OWNER/NAME)",
        test_splits=("test", "test_unique"),
    ),
    "rapidata": Published(
        "Rapidata/human-style-preferences-images", "CDLA-Permissive-2.0", 18, PARQUET
    ),
    "genai_bench": Published(
        "TIGER-Lab/GenAI-Bench",
        "CC-BY-4.0",
        0.6,
        ("image_generation/*.parquet",),
        test_splits=("test",),
    ),
    "mmrb2": Published(
        "rl-research/multimodal-rewardbench-2",
        "CC-BY-NC-4.0",
        2,
        ("t2i/*.parquet", "t2i-*.parquet"),
        test_splits=("test",),
    ),
    "folder": Published(None, by_hand="it is data of your own: name its folder"),
    "scenes": Published(None, by_hand="they are drawn, not fetched: name a folder of them"),
}


def publication(source: str) -> Published:
    """Where a source is published.

    Raises:
      SourceError: there is no source of that name.
    """
    if source not in PUBLISHED:
        near = difflib.get_close_matches(source.lower(), PUBLISHED, n=1, cutoff=0.4)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise SourceError(f"unknown source {source!r}: {hint}known are {', '.join(PUBLISHED)}")
    return PUBLISHED[source]
