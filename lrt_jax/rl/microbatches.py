"""Parts of a batch, one after the other, where all of it would not fit into memory at once."""

import jax
from jaxtyping import PyTree


def split(batch: PyTree, count: int) -> PyTree:
    """Arrays [B, ...] as [count, B / count, ...]: a leading axis of microbatches.

    Every `count`-th row goes to the same microbatch: each keeps its share of rows on every device.
    """
    return jax.tree.map(lambda x: x.reshape(-1, count, *x.shape[1:]).swapaxes(0, 1), batch)


def join(outputs: PyTree) -> PyTree:
    """Inverse of `split`."""
    return jax.tree.map(lambda x: x.swapaxes(0, 1).reshape(-1, *x.shape[2:]), outputs)
