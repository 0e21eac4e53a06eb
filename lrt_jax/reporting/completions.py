"""What the policy said, and what was thought of it: one parquet file for each step that is kept."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from etils import epath

from lrt_jax.storage.disk import write_atomically
from lrt_jax.storage.workdir import step_file, step_files

FOLDER, ENDING = "completions", "parquet"
TERM_PREFIX = "reward_"  # of the columns with the reward terms


def column(kind: pa.DataType, *, nullable: bool = False) -> Any:
    """A field of `Completion`, and the type of its column in a file."""
    return dataclasses.field(metadata={"type": kind, "nullable": nullable})


@dataclasses.dataclass(frozen=True)
class Completion:
    """One sampled completion.

    Attributes:
      pair_uid: the pair's `PairRecord.uid`.
      image_keys: `ImageRecord.key` of the two images, in the order shown.
      swapped: whether that is not the stored order.
      caption: of the pair.
      member: index inside its group, from 0.
      text: decoded, without the stop token.
      well_formed: whether it could be parsed.
      choice: FIRST, SECOND, or -1 where it could not.
      p_first: target of the reward: 1, 0 or a share of votes for the first image shown.
      listener_p_first: the listener's probability of that; None where no listener read it.
      terms: the reward terms by name, before weighting.
      total: the weighted sum.
      advantage: what the loss multiplied its log-probs by.
      tokens: length, stop token included.
      truncated: whether it was cut off at the greatest length.
    """

    pair_uid: str = column(pa.string())
    image_keys: tuple[str, str] = column(pa.list_(pa.string(), 2))
    swapped: bool = column(pa.bool_())
    caption: str = column(pa.string())
    member: int = column(pa.int32())
    text: str = column(pa.string())
    well_formed: bool = column(pa.bool_())
    choice: int = column(pa.int8())
    p_first: float = column(pa.float32())
    listener_p_first: float | None = column(pa.float32(), nullable=True)
    terms: Mapping[str, float]
    total: float = column(pa.float32())
    advantage: float = column(pa.float32())
    tokens: int = column(pa.int32())
    truncated: bool = column(pa.bool_())


def completions_schema(terms: Sequence[str]) -> pa.Schema:
    """The columns of a file: the step, those of `Completion`, and one for each reward term.

    Raises:
      ValueError: a term is named twice.
    """
    if len(set(terms)) != len(terms):
        raise ValueError(f"reward terms must have different names, got {', '.join(terms)}")
    own = [pa.field(x.name, **x.metadata) for x in dataclasses.fields(Completion) if x.metadata]
    rewards = [pa.field(TERM_PREFIX + term, pa.float32(), nullable=False) for term in terms]
    return pa.schema([pa.field("step", pa.int64(), nullable=False), *own, *rewards])


class CompletionsWriter:
    """Writes `completions/step-000012.parquet`, whole or not at all.

    Args:
      workdir: the run's folder.
      terms: names of the run's reward terms.
    """

    def __init__(self, workdir: epath.PathLike, terms: Sequence[str]):
        self._folder = epath.Path(workdir) / FOLDER
        self._terms = tuple(terms)
        self._schema = completions_schema(self._terms)

    def write(self, step: int, completions: Sequence[Completion]) -> epath.Path:
        """Writes a step's completions; a file of the same step is replaced.

        Returns:
          The file's path.

        Raises:
          ValueError: a completion's reward terms are not those of the run.
        """
        rows = [self._row(step, completion) for completion in completions]
        sink = pa.BufferOutputStream()
        pq.write_table(pa.Table.from_pylist(rows, self._schema), sink, compression="zstd")
        path = step_file(self._folder, step, ENDING)
        write_atomically(path, sink.getvalue().to_pybytes())
        return path

    def _row(self, step: int, completion: Completion) -> dict:
        if set(completion.terms) != set(self._terms):
            raise ValueError(
                f"completion of pair {completion.pair_uid} has the reward terms "
                f"{sorted(completion.terms)}, the run has {sorted(self._terms)}"
            )
        row = {f.name: getattr(completion, f.name) for f in dataclasses.fields(completion)}
        terms = row.pop("terms")
        return {"step": step, **row, **{TERM_PREFIX + name: terms[name] for name in self._terms}}


def read_completions(workdir: epath.PathLike, step: int | None = None) -> pa.Table:
    """The completions of one step, or of all steps in order.

    Raises:
      FileNotFoundError: there are none.
    """
    folder = epath.Path(workdir) / FOLDER
    found = step_files(folder, ENDING)
    paths = list(found.values()) if step is None else [found[step]] if step in found else []
    if not paths:
        wanted = f"step-*.{ENDING}" if step is None else step_file(folder, step, ENDING).name
        raise FileNotFoundError(f"{folder}: no {wanted}")
    return pa.concat_tables([pq.read_table(pa.BufferReader(path.read_bytes())) for path in paths])
