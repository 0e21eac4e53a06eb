"""Brings rows of one of two processes to both; run by test_rows.py.

python -m tests.parallel.rows_process FOLDER ADDRESS COUNT INDEX
"""

import pickle
import sys
from pathlib import Path

import jax
import numpy as np

from lrt_jax.parallel import processes
from lrt_jax.parallel.collectives import (
    all_gather_rows,
    any_process,
    rows_to_host,
    shard_batch,
    shard_local_batch,
)
from lrt_jax.parallel.mesh import make_mesh
from lrt_jax.rl.completions import WIDTH, Completions, all_gather_completions

ROWS, GROUP = 4, 2
WHOLE = {
    "doubles": np.array([[np.pi, np.nan], [-0.0, np.inf], [1e-320, 1.0], [2.0, 3.0]]),
    "longs": np.arange(ROWS) + 2**60,
    "flags": np.array([True, False, False, True]),
    "bytes": np.array([[-1], [0], [1], [127]], np.int8),
}
TEXTS = [
    [["short", ""], ["ends in zeros\0\0", "\u00e9\u4e2d"]],
    [["x" * (WIDTH + 5), "\n"], ["last", "\0"]],
]


def completions(index: int) -> Completions:
    """What one of the processes has read."""
    grid = np.full((ROWS // 2, GROUP), index)
    return Completions(
        texts=TEXTS[index],
        traces=[[text[::-1] for text in row] for row in TEXTS[index]],
        well_formed=grid.astype(bool),
        choice=grid.astype(np.int8),
        answer_position=grid.astype(np.int32),
        length=grid.astype(np.int32),
        truncated=grid.astype(bool),
        nucleus_mass=grid.astype(np.float32),
    )


def main(folder: Path) -> None:
    """What each process has in the end."""
    mesh, index = make_mesh(), processes.index()
    mine = {name: rows[2 * index : 2 * index + 2] for name, rows in WHOLE.items()}
    numbers = WHOLE["doubles"].astype(np.float32)
    with jax.transfer_guard("disallow"):
        found = {
            "rows": all_gather_rows(mine, mesh),
            "completions": all_gather_completions(completions(index), mesh),
            "there and back": rows_to_host(shard_local_batch(numbers[2 * index :][:2], mesh)),
            "whole": rows_to_host(shard_batch(numbers, mesh)),
            "anywhere": [any_process(flag, mesh) for flag in (index == 1, False)],
            "told": processes.broadcast("a thing", {"index": index}),
        }
    (folder / f"{index}.pickle").write_bytes(pickle.dumps(found))


if __name__ == "__main__":
    address, count, index = sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    processes.initialize(address, count, index)
    with processes.together():
        main(Path(sys.argv[1]))
