"""A file of rows, scored: resumable, and shared by the processes of a run.

Rows are scored in parts of `PART` rows, each of which is written whole into a hidden folder beside
the output, and merged in order once there are all. A start with the same input, model and options
goes on with the parts that are missing; with others it is refused.

    .OUTPUT.parts/job.json            what is scored, and how
    .OUTPUT.parts/part-000012.jsonl   rows 12 * PART to 13 * PART
    OUTPUT.job.json                   the same as job.json, and how many rows are bad
    OUTPUT
"""

import contextlib
import dataclasses
import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from lrt_jax import __version__
from lrt_jax.inference.reward_model import RewardModel
from lrt_jax.inference.rows import RowsFile
from lrt_jax.inference.scored_rows import ENDINGS, merge, scored_row, to_lines
from lrt_jax.models import SETTINGS
from lrt_jax.models.checkpoint_folder import folder_digest
from lrt_jax.parallel import processes
from lrt_jax.parallel.progress import progress_bar
from lrt_jax.storage.digests import check_seal, file_digest, json_digest, sealed
from lrt_jax.storage.disk import (
    LOCK,
    UserError,
    explain,
    locked,
    new_file,
    read_fields,
    read_plainly,
    write_atomically,
)

PART = 128  # rows; some batches
JOB = "job.json"
REMEDY = "name another --output, or remove that one with what lies beside it"


@dataclasses.dataclass(frozen=True)
class Scored:
    """What came of a scoring: how many rows there are, and how many of them are bad."""

    rows: int
    bad: int


@dataclasses.dataclass(frozen=True)
class Scoring:
    """Rows to score into a file.

    Attributes:
      rows: what is compared.
      output: file to write; its ending, one of `ENDINGS`, says of which kind.
      job: what the output depends upon, in JSON: digests of input and models, and the options.
      votes: of each comparison.

    Raises:
      ValueError: the output's ending is another.
    """

    rows: RowsFile
    output: Path
    job: Mapping[str, Any]
    votes: int = 1

    def __post_init__(self):
        if self.output.suffix not in ENDINGS:
            raise ValueError(f"{self.output}: its name must end in {' or '.join(ENDINGS)}")

    def run(self, open_model: Callable[[], RewardModel]) -> Scored:
        """Scores what is not scored yet, and merges it all; the processes of a run do it together.

        Args:
          open_model: called where there is something to score.

        Raises:
          ValueError: output or parts are there, and not of this input, model and options; or
            another process works on them.
          FileNotFoundError: the processes do not share the output's folder.
        """
        processes.assert_equal("input, model and options", json_digest(self.job))
        scored = _first_says("what is done", self._earlier)
        if scored is None:
            with self._begun():
                missing = _first_says("missing parts", self._missing)
                processes.check_shared(self._folder)
                self._score(open_model, missing[processes.index() :: processes.count()])
                processes.barrier("its rows are scored", processes.WORK_TIMEOUT)
                scored = _first_says("bad rows", self._finish)
        return Scored(**scored)

    # ------------------------------------------------------------------------ what is there

    def _earlier(self) -> dict[str, int] | None:
        """What came of an earlier start that has ended, if there was one."""
        for path in (self._record, self._folder / JOB):
            self._check_job(path)
        if not self.output.exists():
            return None
        if not self._record.exists():
            self._refuse_other()
        with read_plainly(self._record, REMEDY):
            found = read_fields(self._record, REMEDY)
            written, scored = found["output"], found["scored"]
        if written != file_digest(self.output):
            self._refuse_other()
        self._tidy()
        return scored

    def _refuse_other(self) -> NoReturn:
        raise UserError(
            f"{self.output}: is there already, and not as this command leaves it; {REMEDY}"
        )

    def _check_job(self, path: Path) -> None:
        """Refuses a file about another scoring; it may be missing."""
        if not path.exists():
            return
        with read_plainly(path, REMEDY):
            found = read_fields(path, REMEDY)
            check_seal(found)
        if others := [name for name in self.job if found["job"].get(name) != self.job[name]]:
            told = "; ".join(f"{x} {found['job'].get(x)}, not {self.job[x]}" for x in others)
            raise UserError(f"{path}: is of another scoring: {told}; {REMEDY}")

    def _missing(self) -> list[int]:
        return [number for number in range(self._parts) if not self._part(number).exists()]

    @property
    def _folder(self) -> Path:
        return self.output.with_name(f".{self.output.name}.parts")

    @property
    def _record(self) -> Path:
        return self.output.with_name(f"{self.output.name}.{JOB}")

    @property
    def _parts(self) -> int:
        return -(-self.rows.count // PART)

    def _part(self, number: int) -> Path:
        return self._folder / f"part-{number:06}.jsonl"

    def _numbers(self, part: int) -> range:
        return range(part * PART, min((part + 1) * PART, self.rows.count))

    # ------------------------------------------------------------------------ what is done

    @contextlib.contextmanager
    def _begun(self) -> Iterator[None]:
        """With a folder for parts, which the first process keeps others out of."""
        if not processes.is_first():
            yield
            return
        with explain(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
        with locked(self._folder):
            self._check_job(self._folder / JOB)
            write_atomically(self._folder / JOB, _json(sealed({"job": self.job})))
            yield

    def _score(self, open_model: Callable[[], RewardModel], parts: Sequence[int]) -> None:
        """Scores some parts, and writes each once it is whole."""
        if not parts:
            return
        model = open_model()
        rows, same_rows = itertools.tee(self.rows.read([self._numbers(x) for x in parts]))
        requests = (row.request for row in rows)
        answers = model.compare_many(requests, votes=self.votes, on_bad_row="return")
        scored = itertools.starmap(scored_row, zip(same_rows, answers, strict=True))
        with progress_bar("scoring", sum(len(self._numbers(x)) for x in parts), "rows") as bar:
            for part in parts:
                found = []
                for row in itertools.islice(scored, len(self._numbers(part))):
                    found.append(row)
                    bar.update()
                write_atomically(self._part(part), to_lines(found))

    def _finish(self) -> dict[str, int]:
        """Merges the parts, and removes them."""
        parts = [self._part(number) for number in range(self._parts)]
        with new_file(self.output) as unfinished:
            bad = merge(parts, unfinished, self.output.suffix)
            if self.output.exists():  # since a moment ago
                self._refuse_other()
            scored = dataclasses.asdict(Scored(self.rows.count, bad))
            record = {"job": self.job, "scored": scored, "output": file_digest(unfinished)}
            write_atomically(self._record, _json(sealed(record)))
        self._tidy()
        return scored

    def _tidy(self) -> None:
        """Removes what was needed only as long as something was missing."""
        for pattern in ("part-*.jsonl", ".part-*.jsonl.tmp", JOB, f".{JOB}.tmp", LOCK):
            for path in self._folder.glob(pattern):
                path.unlink(missing_ok=True)
        # There is none, or something of somebody else's is in it.
        with contextlib.suppress(OSError):
            self._folder.rmdir()


def job_of(rows: RowsFile, models: Mapping[str, Path | None], **options: Any) -> dict[str, Any]:
    """What an output depends upon, but for the images that paths lead to.

    Args:
      rows: what is compared.
      models: folders of reasoner and listener; None where there is none.
      options: how the comparisons are made.
    """
    own_folder = rows.image_root == rows.path.parent
    return {
        "lrt_jax": __version__,
        "input": file_digest(rows.path),
        "image_root": None if own_folder else str(rows.image_root.absolute()),
        **{name: folder and _model_digest(folder) for name, folder in models.items()},
        **options,
    }


def _model_digest(folder: Path) -> str:
    """Of weights, and of how the model is to be asked."""
    settings = folder / SETTINGS
    parts = [folder_digest(folder, announce=True)]
    parts += [file_digest(settings)] if settings.is_file() else []
    return json_digest(parts)


def _first_says(what: str, found: Callable[[], Any]) -> Any:
    """What the first process finds, in all of them."""
    return processes.broadcast(what, found() if processes.is_first() else None)


def _json(content: Mapping) -> bytes:
    return (json.dumps(content, indent=2) + "\n").encode()
