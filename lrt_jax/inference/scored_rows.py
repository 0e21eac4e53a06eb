"""What an output says of a row, in JSON lines or in parquet."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from etils import epath

from lrt_jax.inference.results import Comparison
from lrt_jax.inference.rows import InputRow

ENDINGS = (".jsonl", ".parquet")
TRACES = pa.list_(pa.string())
SCHEMA = pa.schema(
    [
        pa.field("row", pa.int64(), nullable=False),
        *((name, pa.string()) for name in ("caption", "first", "second")),
        *((name, pa.float64()) for name in ("probability", "standard_error", "agreement")),
        ("listener_probability", pa.float64()),
        ("contradiction", pa.bool_()),
        ("forced", pa.int32()),
        ("traces", TRACES),
        ("swapped_traces", TRACES),
        ("error", pa.string()),
    ]
)


def scored_row(row: InputRow, answer: Comparison | Exception) -> dict[str, Any]:
    """A row of an output: the columns of `SCHEMA`.

    Args:
      row: of the input.
      answer: what `RewardModel.compare_many` says of it.
    """
    found = dict.fromkeys(SCHEMA.names) | {"row": row.number} | dict(row.names)
    if isinstance(answer, Exception):
        return found | {"error": str(answer)}
    traces, swapped = answer.traces
    return found | {
        "probability": answer.probability,
        "standard_error": answer.standard_error,
        "agreement": answer.agreement,
        "listener_probability": answer.listener_probability,
        "contradiction": answer.contradiction,
        "forced": answer.forced,
        "traces": list(traces),
        "swapped_traces": list(swapped),
    }


def to_lines(rows: Sequence[dict[str, Any]]) -> bytes:
    """Rows as JSON lines."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def merge(parts: Sequence[Path], output: epath.Path, kind: str) -> int:
    """Writes the rows of files of JSON lines, in order, into one file.

    Args:
      parts: the files.
      output: the file to write.
      kind: one of `ENDINGS`.

    Returns:
      How many of the rows are bad.
    """
    bad = 0

    def read() -> Iterator[tuple[bytes, list[dict[str, Any]]]]:
        nonlocal bad
        for part in parts:
            content = part.read_bytes()
            rows = [json.loads(line) for line in content.split(b"\n")[:-1]]
            bad += sum(row["error"] is not None for row in rows)
            yield content, rows

    if kind == ".parquet":
        with pq.ParquetWriter(output, SCHEMA, compression="zstd") as table:
            for _, rows in read():
                table.write_table(pa.Table.from_pylist(rows, SCHEMA))
    else:
        with output.open("wb") as file:
            for content, _ in read():
                file.write(content)
    return bad
