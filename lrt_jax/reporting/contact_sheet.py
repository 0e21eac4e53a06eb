"""Pairs of a prepared set as a picture: captions, both images, votes."""

import io
import textwrap
from pathlib import Path

import numpy as np

from lrt_jax.data.dataset.prepared_set import PreparedSet
from lrt_jax.data.images import decode
from lrt_jax.data.schema import FIRST, SECOND, PairRecord
from lrt_jax.storage.disk import write_atomically

COLUMNS = 4  # pairs beside one another
CAPTION = 54, 4  # characters of a line, lines
PREFERRED, OTHER = "#1b7f3b", "#999999"


def draw_pairs(prepared: PreparedSet, file: Path, count: int = 24, seed: int = 0) -> None:
    """Draws some pairs, as many of each split.

    Args:
      prepared: the set.
      file: PNG to write.
      count: pairs to draw at most.
      seed: of the choice.

    Raises:
      OSError: the file cannot be written.
    """
    from matplotlib.figure import Figure

    rows = _choose(prepared, count, seed)
    lines = -(-len(rows) // COLUMNS)
    figure = Figure(figsize=(5 * COLUMNS, 3.5 * lines), layout="constrained")
    parts = np.atleast_1d(figure.subfigures(lines, COLUMNS, wspace=0.04, hspace=0.04)).ravel()
    for part, row in zip(parts, rows, strict=False):
        _draw_pair(part, prepared, prepared.pair(row))
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=80)
    write_atomically(file, buffer.getvalue())


def _choose(prepared: PreparedSet, count: int, seed: int) -> list[int]:
    """Rows of different captions where there are enough, split after split."""
    rng = np.random.default_rng(seed)
    chosen: list[int] = []
    names = [name for name, rows in prepared.splits.items() if rows]
    for i, name in enumerate(names):
        rows = rng.permutation(np.asarray(prepared.rows(name)))
        _, first = np.unique(prepared.clusters[rows], return_index=True)
        others = np.delete(rows, first)
        room = (count - len(chosen)) // (len(names) - i)
        chosen += np.sort(np.concatenate([rows[np.sort(first)], others])[:room]).tolist()
    return chosen


def _draw_pair(part, prepared: PreparedSet, pair: PairRecord) -> None:
    left, right = part.subplots(1, 2)
    width, most = CAPTION
    text = textwrap.wrap(pair.prompt, width, max_lines=most, placeholder=" ...")
    part.suptitle("\n".join(text).replace("$", r"\$"), fontsize=9)
    for index, (axes, wins) in enumerate(((left, FIRST), (right, SECOND))):
        record = prepared.image(pair.image_index[index])
        axes.imshow(decode(record.image, record.key))
        colour = PREFERRED if pair.label == wins else OTHER
        votes = pair.votes[index]
        maker = f", {name}" if (name := pair.generator[index]) else ""
        said = f"{votes:g} vote{'s' * (votes != 1)}{maker}"
        axes.set_xlabel(said.replace("$", r"\$"), fontsize=9, color=colour)
        axes.set(xticks=[], yticks=[])
        for spine in axes.spines.values():
            spine.set(edgecolor=colour, linewidth=3)
    left.set_ylabel(pair.split, fontsize=8)
