"""Numbers that are not finite: named with their rows, so that a run stops where it went wrong."""

from collections.abc import Mapping, Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from lrt_jax.data.dataset.mixture import DataSet

SHOWN = 3  # pairs that are named


class NotFiniteError(FloatingPointError):
    """NaN or infinity in a named number.

    Attributes:
      what: the number, and what it is.
      rows: of the batch, those whose own numbers are not finite; empty where none can be blamed.
    """

    def __init__(self, what: str, rows: Sequence[int] | Int[np.ndarray, " n"] = ()):
        self.what, self.rows = what, tuple(int(row) for row in rows)
        super().__init__(f"{what}, in rows {list(self.rows)} of the batch" if self.rows else what)


def nonfinite_rows(
    mask: Bool[Array, "B G t"], *logps: Float[Array, "B G t"] | None
) -> Bool[Array, " B"]:
    """Rows in which the log-probability of any token is not finite, padding left out."""
    bad = jnp.zeros(mask.shape, bool)
    for values in logps:
        bad = bad if values is None else bad | ~jnp.isfinite(values)
    return jnp.any(bad & mask, axis=(1, 2))


def named(prepared: DataSet, pairs: Sequence[int | np.integer] | Int[np.ndarray, " n"]) -> str:
    """The uids of a few of some pairs, by their rows of the pairs table, and how many more."""
    uids = [prepared.pair(int(pair)).uid for pair in pairs]
    return ", ".join(uids[:SHOWN]) + f" and {len(uids) - SHOWN} more" * (len(uids) > SHOWN)


def check_metrics(
    metrics: Mapping[str, float | Float[np.ndarray, ""]], rows: Bool[np.ndarray, " B"]
) -> None:
    """Refuses the metrics of an update that are not finite.

    Args:
      metrics: by name.
      rows: of `nonfinite_rows`.

    Raises:
      NotFiniteError: names all that are not.
    """
    bad = [f"{name} is {value}" for name, value in metrics.items() if not np.isfinite(value)]
    if bad:
        raise NotFiniteError(", ".join(bad), np.flatnonzero(rows))
