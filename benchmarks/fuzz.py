"""Does damaged input end in an error that names a file, or in the right result?

    python -m benchmarks.fuzz --workdir=DIR
    python -m benchmarks.fuzz --workdir=DIR --target=checkpoint --case=17

Copies of an image set, a checkpoint folder and a run's workdir are damaged at random: bytes
flipped, files cut, regions swapped between files, keys of JSON files changed, removed, given other
types or huge numbers. Each copy is then used (see `fuzz_targets`) in a warm process of which time
and memory are watched. What may come of it is an error that names a file of the case, or the same
result as of the whole copy; of an image set and of a checkpoint, which may be anybody's, also
another result under another digest. A traceback, 60 s, 2 GB or a result that differs without a word
are failures; each is tried once more, in a process of its own, before it counts.
"""

import contextlib
import dataclasses
import json
import multiprocessing
import os
import random
import shutil
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path

from absl import flags

from benchmarks.fuzz_mutations import damage
from lrt_jax.cli import commands
from lrt_jax.storage.disk import locked

TARGETS = ("images", "checkpoint", "workdir")
SECONDS, BYTES = 60.0, 2 * 10**9  # that a case may take
WARMING = 300.0  # seconds for a process to come up
WARM_BYTES = 1.5e9  # a process that has kept so much is replaced between two cases
TOLD = (ValueError, OSError, KeyError, FloatingPointError)  # what commands tell in a line
WHOLE = -2  # number of the copy that is not damaged
ERROR, SAME, OTHER = "named error", "same result", "other digest"
GOOD = (ERROR, SAME, OTHER)
BAD = ("unnamed error", "traceback", "silent difference", "hang", "memory", "crash")


def define_flags(values: flags.FlagValues) -> None:
    """Defines this command's flags."""
    number = flags.DEFINE_integer
    commands.define_text(values, "workdir", "Folder of the targets and their copies.")
    number("cases", 300, "How many, shared out evenly among the targets.", flag_values=values)
    number("seed", 0, "Of the damage.", flag_values=values)
    flags.DEFINE_list("case", [], "Those to repeat; name their --target.", flag_values=values)
    flags.DEFINE_list("target", list(TARGETS), "What to damage.", flag_values=values)
    flags.DEFINE_string("json", None, "File for a line about each case.", flag_values=values)


@dataclasses.dataclass(frozen=True)
class Case:
    """One copy and its damage, which number and seed alone decide.

    Attributes:
      folder: of all targets.
      target: which of `TARGETS`.
      seed: of the whole study.
      number: of the case.
    """

    folder: str
    target: str
    seed: int
    number: int

    @property
    def rng(self) -> random.Random:
        """Draws the damage, in whatever process."""
        return random.Random(f"{self.seed} {self.target} {self.number}")

    @property
    def copy(self) -> Path:
        """Where the damaged copy lies; every other image set is prepared with `skip`."""
        ending = "-skip" if self.number % 2 else ""
        return Path(self.folder) / "cases" / f"{self.target}-{self.number:04}{ending}"


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What came of a case.

    Attributes:
      kind: of `GOOD` or `BAD`.
      damage: what was done to the copy.
      detail: the error, or what differs.
      seconds: that it took.
      peak: most bytes that the process had in memory.
    """

    kind: str
    damage: str
    detail: str
    seconds: float = 0.0
    peak: int = 0

    @property
    def is_good(self) -> bool:
        """Whether it is no failure."""
        return self.kind in GOOD


# ---------------------------------------------------------------------------- one case


class Judge:
    """Uses damaged copies, and compares what comes of them with what comes of whole ones."""

    def __init__(self):
        self._whole = {}

    def __call__(self, case: Case) -> Outcome:
        """What comes of a case; of `WHOLE`, the whole target is made and used."""
        if (case.folder, case.target) not in self._whole:
            self._whole[case.folder, case.target] = self._use_whole(case)
        if case.number == WHOLE:
            return Outcome(SAME, "", "")
        _copy(case)
        done = damage(case.copy, case.rng)
        began = time.monotonic()
        _reset_peak()
        kind, detail = self._outcome(case)
        return Outcome(kind, done, detail, time.monotonic() - began, memory(os.getpid(), "VmHWM"))

    def _use_whole(self, case: Case):
        from benchmarks import fuzz_targets

        fuzz_targets.make_targets(Path(case.folder), [case.target])
        whole = dataclasses.replace(case, number=WHOLE)
        _copy(whole)
        used = _use(whole)
        remove(whole)
        if used.wrong:
            raise AssertionError(f"of the whole {case.target}: {used.wrong}")
        return used

    def _outcome(self, case: Case) -> tuple[str, str]:
        try:
            used = _use(case)
        except TOLD as error:
            message = error.args[0] if isinstance(error, KeyError) else error
            told = " ".join([str(message), *getattr(error, "__notes__", ())])
            return ERROR if _names_a_file(case, told) else "unnamed error", _short(case, told)
        except Exception as error:
            where = traceback.extract_tb(error.__traceback__)
            ours = [x for x in where if f"{os.sep}lrt_jax{os.sep}" in x.filename][-1:]
            place = "".join(f"{Path(x.filename).name}:{x.lineno}: " for x in ours)
            return "traceback", _short(case, f"{place}{type(error).__name__}: {error}")
        whole = self._whole[case.folder, case.target]
        names = used.content.keys() | whole.content.keys()
        differ = sorted(x for x in names if used.content.get(x) != whole.content.get(x))
        if used.wrong:
            return "silent difference", _short(case, "; ".join(used.wrong))
        if not differ:
            return SAME, ""
        told = ", ".join(differ[:4]) + (f" and {len(differ) - 4} more" if differ[4:] else "")
        return OTHER if used.identity != whole.identity else "silent difference", told


def _use(case: Case):
    from benchmarks import fuzz_targets

    return fuzz_targets.TARGETS[case.target].use(case.copy, _scratch(case))


def _scratch(case: Case) -> Path:
    return Path(case.folder) / "scratch" / case.copy.name


def _copy(case: Case) -> None:
    for folder in (case.copy, _scratch(case)):
        shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(Path(case.folder) / case.target, case.copy)
    _scratch(case).mkdir(parents=True)


def remove(case: Case) -> None:
    """Removes what a case has left."""
    for folder in (case.copy, _scratch(case)):
        shutil.rmtree(folder, ignore_errors=True)


def _names_a_file(case: Case, told: str) -> bool:
    """Whether an error names a place in the copy or in what was made of it, or a file's name."""
    names = {path.name for path in case.copy.rglob("*.*") if path.is_file()}
    places = (str(case.copy), str(_scratch(case)))
    return any(name in told for name in (*places, *names))


def _short(case: Case, text: str) -> str:
    text = " ".join(text.replace(str(case.copy), "DIR").replace(str(_scratch(case)), "OUT").split())
    return text[:400]


def memory(process: int, field: str = "VmRSS") -> int:
    """Bytes of a process, as the kernel counts them; 0 of one that is gone."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return 0
    return sum(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))


def _reset_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")  # the highest mark is of now


# ---------------------------------------------------------------------------- processes


def serve(connection: Connection, log: str, make_judge: Callable[[], Judge]) -> None:
    """A warm process: takes cases and answers with their outcomes, until it is told None."""
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for descriptor in (1, 2):
        os.dup2(out, descriptor)
    judge = make_judge()
    while (case := connection.recv()) is not None:
        connection.send(judge(case))


class Watched:
    """A warm process of which time and memory are watched, replaced where it ends or is ended.

    Args:
      folder: for what it says.
      make_judge: makes what takes the cases, in the process.
      method: by which the process is started.
    """

    def __init__(
        self, folder: Path, make_judge: Callable[[], Judge] = Judge, method: str = "spawn"
    ):
        self._make_judge, self._method = make_judge, method
        self._log = str(folder / "processes.log")
        self._process: multiprocessing.process.BaseProcess | None = None

    def run(self, case: Case, *, fresh: bool = False) -> Outcome:
        """What comes of a case.

        Args:
          case: to run.
          fresh: in a process that has run none, but for the whole target.
        """
        if fresh or (self._process and memory(self._process.pid) > WARM_BYTES):
            self.end()
        if self._process is None:
            self._start()
        if (case.folder, case.target) not in self._seen:
            self._seen.add((case.folder, case.target))
            ended = self._ask(dataclasses.replace(case, number=WHOLE), WARMING, sys.maxsize)
            if isinstance(ended, str):
                raise RuntimeError(f"{self._log}: the whole {case.target} cannot be used: {ended}")
        began = time.monotonic()
        outcome = self._ask(case, SECONDS, BYTES)
        if isinstance(outcome, str):
            self._process.kill()
            self.end()
            return Outcome(outcome, damage_of(case), "", time.monotonic() - began)
        if outcome.peak > BYTES and outcome.is_good:
            return dataclasses.replace(outcome, kind="memory")
        return outcome

    def _start(self) -> None:
        context = multiprocessing.get_context(self._method)
        self._connection, theirs = context.Pipe()
        arguments = theirs, self._log, self._make_judge
        self._process = context.Process(target=serve, args=arguments, daemon=True)
        self._process.start()
        theirs.close()
        self._seen: set[tuple[str, str]] = set()

    def _ask(self, case: Case, seconds: float, most: int) -> Outcome | str:
        """The outcome of a case, or what keeps it from coming."""
        until = time.monotonic() + seconds
        try:
            self._connection.send(case)
            while not self._connection.poll(0.02):
                if memory(self._process.pid) > most:
                    return "memory"
                if time.monotonic() > until:
                    return "hang"
            return self._connection.recv()
        except (EOFError, ConnectionError):
            return "crash"

    def end(self) -> None:
        """Ends the process, which has answered or is dead."""
        if self._process is not None:
            with contextlib.suppress(ConnectionError):
                self._connection.send(None)
            self._process.join(10.0)
            self._process.kill()
            self._process.join()
            self._connection.close()
            self._process = None


def damage_of(case: Case) -> str:
    """What is done to the copy of a case that has not lived to tell."""
    _copy(case)
    return damage(case.copy, case.rng)


# ---------------------------------------------------------------------------- the study


def run_cases(cases: Sequence[Case], folder: Path) -> Iterator[tuple[Case, Outcome]]:
    """Runs cases one after the other; a failure counts if it comes again in a fresh process."""
    watched = Watched(folder)
    try:
        for case in cases:
            outcome = watched.run(case)
            if not outcome.is_good:
                outcome = watched.run(case, fresh=True)
            remove(case)
            yield case, outcome
    finally:
        watched.end()


def table(outcomes: Sequence[tuple[Case, Outcome]]) -> str:
    """Cases by target and outcome, those of `BAD` together."""
    kinds = ("error that names the file", SAME, OTHER, "failures")
    names = dict(zip((*GOOD, *BAD), (*kinds, *kinds[-1:] * (len(BAD) - 1)), strict=True))
    counts = Counter((case.target, names[outcome.kind]) for case, outcome in outcomes)
    targets = [name for name in TARGETS if any(case.target == name for case, _ in outcomes)]
    lines = [f"| target | {' | '.join(kinds)} |", f"|---|{'---|' * len(kinds)}"]
    for name in targets:
        lines.append(f"| {name} | {' | '.join(str(counts[name, kind]) for kind in kinds)} |")
    return "\n".join(lines)


def main(values: flags.FlagValues) -> None:
    """Runs the command with flags that are parsed."""
    folder = Path(values.workdir).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    if unknown := set(values.target) - set(TARGETS):
        raise ValueError(f"--target: {', '.join(unknown)}; there are {', '.join(TARGETS)}")
    numbers = range(values.cases // len(values.target))
    if values.case:
        numbers = [int(number) for number in values.case]
    cases = [Case(str(folder), name, values.seed, i) for name in values.target for i in numbers]
    with locked(folder):
        outcomes = _all_outcomes(cases, folder, values)
    report(outcomes)


def _all_outcomes(cases: Sequence[Case], folder: Path, values) -> list[tuple[Case, Outcome]]:
    """Runs the cases, telling on the way how far it is and what fails."""
    outcomes, began = [], time.monotonic()
    for case, outcome in run_cases(cases, folder):
        outcomes.append((case, outcome))
        if values.json:
            with Path(values.json).open("a") as file:
                file.write(json.dumps(_line(case, outcome)) + "\n")
        left = (time.monotonic() - began) / len(outcomes) * (len(cases) - len(outcomes))
        if not outcome.is_good or len(outcomes) % 10 == 0 or values.case:
            told = "" if outcome.is_good and not values.case else f": {describe(case, outcome)}"
            commands.log(f"case {len(outcomes)}/{len(cases)} ETA {left / 60:.1f} min{told}")
    return outcomes


def report(outcomes: Sequence[tuple[Case, Outcome]]) -> None:
    """Says what came of all cases; exits with 1 where some failed."""
    bad = [(case, outcome) for case, outcome in outcomes if not outcome.is_good]
    commands.log(f"\n{table(outcomes)}\n")
    for case, outcome in bad:
        commands.log(describe(case, outcome))
    peak = max(outcome.peak for _, outcome in outcomes)
    slowest = max(outcome.seconds for _, outcome in outcomes)
    commands.log(
        f"{len(bad)} of {len(outcomes)} cases failed. The slowest case took {slowest:.1f} s, the "
        f"largest process {peak / 1e9:.2f} GB."
    )
    if bad:
        sys.exit(1)


def describe(case: Case, outcome: Outcome) -> str:
    """A case and what came of it, with the flags that repeat it."""
    again = f"--target={case.target} --seed={case.seed} --case={case.number}"
    return f"{again}: {outcome.kind}: {outcome.damage}: {outcome.detail}"


def _line(case: Case, outcome: Outcome) -> dict:
    fields = {"target": case.target, "seed": case.seed, "case": case.number}
    return fields | dataclasses.asdict(outcome)


def run() -> None:
    """Entry point."""
    commands.run(main, define_flags)


if __name__ == "__main__":
    run()
