"""Scores a file of rows with the stub model; run by test_scoring.py.

    python -m tests.inference.scoring_process ROWS OUTPUT PARTS...
    python -m tests.inference.scoring_process ROWS OUTPUT ADDRESS COUNT INDEX

The first kills itself as soon as there are so many parts, for each number that is given, and goes
on each time; the other is one of several processes.
"""

import os
import signal
import sys
import time
from pathlib import Path

from lrt_jax.inference import scoring
from lrt_jax.inference.rows import RowsFile
from lrt_jax.inference.scoring import Scored, Scoring
from lrt_jax.parallel import processes
from tests.inference.stub import stub_model

scoring.PART = 16
SLOWLY = 0.02  # seconds for a batch of 4, so that there is time to be killed


def score(rows: Path, output: Path) -> Scored:
    """With the stub model."""
    model, reader = stub_model()
    read = reader.read
    reader.read = lambda *batch: time.sleep(SLOWLY) or read(*batch)
    return Scoring(RowsFile(rows), output, {"input": str(rows)}).run(lambda: model)


def score_until(rows: Path, output: Path, parts: int) -> int:
    """Scores until so many parts are there, and is killed; gives what waiting for it gave."""
    child = os.fork()
    if not child:
        score(rows, output)
        os._exit(0)
    folder = output.with_name(f".{output.name}.parts")
    while len([*folder.glob("part-*")]) < parts:
        time.sleep(0.001)
    os.kill(child, signal.SIGKILL)
    return os.waitpid(child, 0)[1]


def main(rows: str, output: str, *rest: str) -> None:
    """Runs either."""
    paths = Path(rows), Path(output)
    if rest and ":" in rest[0]:
        address, count, index = rest
        processes.initialize(address, int(count), int(index))
        with processes.together():
            print(processes.index(), score(*paths))
        return
    for parts in rest:
        assert score_until(*paths, int(parts)) == signal.SIGKILL
    print(score(*paths))


if __name__ == "__main__":
    main(*sys.argv[1:])
