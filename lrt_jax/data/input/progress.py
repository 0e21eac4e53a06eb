"""Progress of reading a data set."""

from collections.abc import Iterable

from tqdm import tqdm

from lrt_jax.parallel import processes


def reading_bar(things: Iterable, unit: str, total: int | None = None) -> tqdm:
    """A bar over things that are read, which the first process shows."""
    silent = not processes.is_first()
    return tqdm(things, "reading", total, leave=False, delay=3, unit=unit, disable=silent)
