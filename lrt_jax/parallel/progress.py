"""Progress of long work, which the first process shows; rooms before `reporting` show it too."""

import sys
from collections.abc import Iterable

from tqdm import tqdm

from lrt_jax.parallel import processes

REDRAWN, LOGGED = 0.5, 15.0  # seconds between two looks; a log file wants few lines


def progress_bar(
    title: str,
    total: int | None,
    unit: str,
    *,
    things: Iterable | None = None,
    delay: float = 0.0,
) -> tqdm:
    """A bar with the time that is left, on stderr; it is wiped away at its end.

    Args:
      title: before it.
      total: things there are; None if that is not known.
      unit: one of them is called.
      things: to iterate over; without, the caller's `update` counts.
      delay: seconds before it is shown.
    """
    return tqdm(
        things,
        title,
        total,
        leave=False,
        mininterval=REDRAWN if sys.stderr.isatty() else LOGGED,
        unit=f" {unit}",
        disable=not processes.is_first(),
        delay=delay,
    )
