"""Data types: records on disk, examples on the host, batches on the device."""

import dataclasses
import enum
from collections.abc import Sequence

import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from lrt_jax.models.inputs import Images, Prompt

FIRST, SECOND, TIE, UNLABELLED = 0, 1, 2, -1  # PairRecord.label
NO_CHOICE = -1  # where a completion has not said FIRST or SECOND


@dataclasses.dataclass(frozen=True, order=True, slots=True)  # there may be millions
class FileRef:
    """Where a file lies."""

    file: str  # path inside the input folder, with forward slashes; of a split tar, its first part
    # Name inside the archive, or `column[row]` of a parquet file; empty for a file of its own.
    member: str = ""

    def __str__(self) -> str:
        return f"{self.file}!{self.member}" if self.member else self.file

    @classmethod
    def cell(cls, file: str, column: str, row: int) -> "FileRef":
        """Of the bytes in a row of a parquet file, itself or as `bytes` of a struct."""
        return cls(file, f"{column}[{row}]")

    @property
    def column_and_row(self) -> tuple[str, int]:
        """What `cell` was given."""
        column, _, row = self.member.rpartition("[")
        return column, int(row.removesuffix("]"))


class Flag(enum.IntFlag):
    """What a pair's record says besides its votes."""

    CONFLICT = 1  # merged judgements preferred different images
    NEAR_DUPLICATE = 2  # an image that looks the same took the place of one that was judged
    SAME_GENERATOR = 4  # one model made both images


@dataclasses.dataclass(frozen=True, slots=True)
class Group:
    """What a source adapter yields: one caption, its images, and what people said of them."""

    group_id: str  # unique inside the source
    prompt: str  # the caption, as published
    images: tuple[FileRef, ...]  # where the images lie, at least two
    # `(i, j, votes_i, votes_j)` of every compared pair of images, `i != j`; votes are raw counts,
    # `(1, 0)` for a single label and equal for a tie.
    pairs: tuple[tuple[int, int, float, float], ...]
    # Rank of each image, 1 is best, ties allowed; None where the source has none.
    ranks: tuple[float, ...] | None = None
    split: str | None = None  # the source's own split, or None where it has one pool
    # Name of the model that made each image, for strata in reports only.
    generators: tuple[str, ...] | None = None
    # What people were asked: `overall`, `alignment`, `coherence` or `style`.
    criterion: str = "overall"
    # For each pair its two votes once more, weighted by the voters' reliability; NaN of a pair, and
    # None of them all, where that is not known.
    weighted: tuple[tuple[float, float], ...] | None = None


@dataclasses.dataclass(frozen=True)
class ImageRecord:
    """One row of a prepared set's `images` table: an image as it was delivered, stored once."""

    key: str  # sha256 of `image`, hexadecimal
    image: bytes
    height: int  # pixels, after the EXIF orientation is applied
    width: int
    phash: int  # 64-bit perceptual hash
    source: str
    valid: bool


@dataclasses.dataclass(frozen=True)
class PairRecord:
    """One row of a prepared set's `pairs` table: two images of a caption and their votes."""

    uid: str
    source: str
    split: str
    group_id: str
    cluster: int  # prompt cluster: the unit of splitting and of bootstrapping
    prompt: str
    image_index: tuple[int, int]  # rows of the images table
    votes: tuple[float, float]  # raw counts
    votes_weighted: tuple[float, float]  # by the voters' reliability; NaN where unknown
    rank: tuple[float, float]  # NaN where unknown
    label: int  # FIRST, SECOND, TIE or UNLABELLED
    p_first: float  # (v0 + 1/2) / (v0 + v1 + 1), the smoothed share of votes for the first
    criterion: str  # what people were asked
    generator: tuple[str, str]  # strata in reports only, never a model input
    flags: int  # of `Flag`


@dataclasses.dataclass(frozen=True)
class Example:
    """One pair in the order in which it is shown, ready to be batched. NumPy, on the host.

    The images' arrays are in window order and padded to `p` patches, the prompts' to `s` tokens.
    """

    images: Images  # unbatched: no leading B
    prompt: Prompt
    listener_prompts: tuple[Prompt, ...]
    target: "Target"
    demonstrations: "Demonstrations | None" = None


@struct.dataclass
class Target:
    """What people said of each pair, in the order in which it is shown."""

    p_first: Float[Array, " B"]  # smoothed share of votes for the first image shown
    label: Int[Array, " B"]  # FIRST, SECOND, TIE, UNLABELLED
    pair: Int[Array, " B"]  # row of the pairs table
    swapped: Bool[Array, " B"]  # whether the stored order was swapped
    weight: Float[Array, " B"]  # in training; 0 for rows that only fill up an evaluation's batch
    letterboxed: Bool[Array, " B"] | None = None  # whether an image of the pair has bars beside it


@struct.dataclass
class Demonstrations:
    """`G` completions of each pair that are to be imitated, padded with 0 on the right."""

    tokens: Int[Array, "B G t"]
    length: Int[Array, "B G"]  # tokens, the stop token included


@struct.dataclass
class Batch:
    """`B` pairs, as the device sees them."""

    images: Images
    prompt: Prompt
    listener_prompts: tuple[Prompt, ...]  # one for each listener that reads its own instruction
    target: Target
    demonstrations: Demonstrations | None = None  # for imitation only


def hard_label(votes: tuple[float, float]) -> int:
    """Majority of two vote counts: FIRST, SECOND, TIE, or UNLABELLED where nobody voted."""
    first, second = votes
    if first + second == 0:
        return UNLABELLED
    return TIE if first == second else FIRST if first > second else SECOND


def smoothed_share(votes: tuple[float, float]) -> float:
    """`(v0 + 1/2) / (v0 + v1 + 1)`: the vote share for the first under a Jeffreys prior."""
    return (votes[0] + 0.5) / (votes[0] + votes[1] + 1.0)


def stack(examples: Sequence[Example]) -> Batch:
    """Stacks examples into a batch of NumPy arrays."""
    import jax

    rows = [(e.images, e.prompt, e.listener_prompts, e.target, e.demonstrations) for e in examples]
    return Batch(*jax.tree.map(lambda *leaves: np.stack(leaves), *rows))


def pair_uid(source: str, split: str, group_id: str, i: int, j: int) -> str:
    """Name of the pair of a group's images `i` and `j`, in their stored order."""
    return f"{source}/{split}/{group_id}/{i}-{j}"
