"""Which pairs of a set are read, and how much each of them counts."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float32, Int

from lrt_jax.data.dataset.mixture import DataSet, drawn_parts
from lrt_jax.data.schema import FIRST, SECOND, UNLABELLED

Rows = Int[np.ndarray, " n"]  # of the pairs table


def rows_of_parts(
    prepared: DataSet, split: str, drop_ties: bool, leave_out: Sequence[int]
) -> tuple[list[Rows], list[float]]:
    """Rows to train on and share, for every part that is drawn from."""
    rows = np.asarray(prepared.rows(split), np.int64)
    labels = prepared.labels[rows]
    keep = np.isin(labels, (FIRST, SECOND)) if drop_ties else labels != UNLABELLED
    rows = rows[keep & ~np.isin(rows, np.asarray(leave_out, np.int64))]
    parts, shares = zip(*drawn_parts(prepared), strict=True)
    found = [rows[(rows >= part.start) & (rows < part.stop)] for part in parts]
    for i, mine in enumerate(found if len(found) > 1 else ()):
        if not len(mine):
            raise ValueError(
                f"{prepared.folder}: split {split!r} has no pair to train on of the mixture's part "
                f"{i} of those with a share; leave it out, or give it the share 0"
            )
    return found, list(shares)


def training_rows(
    prepared: DataSet, split: str, drop_ties: bool, leave_out: Sequence[int] = ()
) -> Rows:
    """Rows of a split's pairs that can be learned from."""
    return np.concatenate(rows_of_parts(prepared, split, drop_ties, leave_out)[0])


def evaluated_rows(prepared: DataSet, split: str, leave_out: Sequence[int] = ()) -> Rows:
    """Rows of a split's pairs that an evaluation can be held against: anybody voted on them."""
    rows = np.setdiff1d(np.asarray(prepared.rows(split), np.int64), leave_out)
    return rows[prepared.labels[rows] != UNLABELLED]


def image_pairs(prepared: DataSet) -> Int[np.ndarray, " pairs"]:
    """A number for the two images of every row: the same for the same two, in either order."""
    _, numbers = np.unique(prepared.image_keys, return_inverse=True)
    shown = np.sort(numbers[prepared.pair_images].astype(np.int64), axis=-1)
    return shown[:, 0] * len(numbers) + shown[:, 1]


def margin_weights(prepared: DataSet, rows: Rows) -> Float32[np.ndarray, " n"]:
    """How sure people were of each pair, `|2 p_first - 1|`, scaled to a mean of 1.

    Raises:
      ValueError: all are 0.
    """
    margin = np.abs(2 * prepared.p_first[rows].astype(np.float64) - 1)
    if not margin.sum() > 0:
        raise ValueError(
            f"{prepared.folder}: every pair to train on is a tie, so all margins are 0; take "
            "data.pair_weights=equal"
        )
    return (margin / margin.mean()).astype(np.float32)


def choose(rows: Rows, limit: int | None, seed: int) -> Rows:
    """At most `limit` of the rows, drawn by the seed, in their own order."""
    if limit is not None and limit < 1:
        raise ValueError(f"limit={limit}: evaluate at least one pair, or None for all")
    if limit is None or limit >= len(rows):
        return rows
    return np.sort(np.random.default_rng(seed).permutation(rows)[:limit])
