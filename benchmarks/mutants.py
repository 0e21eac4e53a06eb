"""How many small faults, planted in the code one at a time, does the suite catch?

    python -m benchmarks.mutants --workdir=DIR --json=DIR/mutants.jsonl
    python -m benchmarks.mutants --workdir=DIR --json=DIR/mutants.jsonl --resume

A sample is drawn of all faults that `mutants_operators` can plant in what makes the numbers of a
run: rewards, losses, sampling, metrics, prompts. First the tests run without a fault, and it is
noted which functions each of them calls. Then, for one fault after another, those that call the
function run, the quickest first, until one fails; where none does, all of the files that they are
in, since a fixture calls for the tests that share it. Faults that change nothing that anybody
could see are listed here, with the reason.
"""

import dataclasses
import json
import random
import shutil
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from absl import flags

from benchmarks.mutants_operators import Mutant, instrumented, mutants_of
from benchmarks.mutants_runner import FAILED, PASSED, TIMED_OUT, Runner
from lrt_jax.cli import commands
from lrt_jax.storage.disk import write_atomically

ROOT = Path(__file__).parents[1]
MUTATED = (
    "lrt_jax/rl/*.py",
    "lrt_jax/evaluation/*.py",
    "lrt_jax/data/input/pairs.py",
    "lrt_jax/data/input/prompts.py",
    "lrt_jax/training/evaluations.py",
)
# What calls these modules; other tests start processes of their own, or meet them only in passing.
TESTS = (
    "tests/rl",
    "tests/evaluation",
    "tests/data/input/test_prompts.py",
    "tests/data/input/test_pipeline.py",
    "tests/data/preparation/test_leaks.py",
    "tests/reporting",
    "tests/data/input/test_pairs.py",
    "tests/models/test_group.py",
    "tests/parallel/test_rows.py",
    "tests/test_bad_input.py",
    "tests/training/test_data.py",
    "tests/training/test_evaluations.py",
    "tests/training/test_export.py",
    "tests/training/test_files.py",
    "tests/training/test_loop.py",
    "tests/training/test_numbers.py",
    "tests/algorithms/test_pair_weights.py",
    "tests/algorithms/test_sft.py",
)
COPIED = ("lrt_jax", "tests", "benchmarks", "configs", "docs", "launch", "README.md", ".ci")
QUICK = 40  # tests that are run at first, of those that call the function
SLACK, FACTOR = 60.0, 3.0  # seconds, and times the usual, that tests may take
_WIDTH = (
    "lrt_jax/rl/completions.py: WIDTH = 1024  # bytes of a completion's text, as it travels "
    "between hosts; twice that for longer, 8: 1024 -> "
)
_STEP = (
    "lrt_jax/evaluation/evaluator.py: rollout = engine.sample(sampler_params, batch, "
    "features[POLICY], members, both_modes, STREAM, 0), 94: 0 -> "
)
_TOKENS = (
    "lrt_jax/rl/losses.py: tokens = jnp.maximum(valid.sum(axis=1, keepdims=True), 1), 55: 1 -> "
)
_WIDTHS = (
    "lrt_jax/rl/completions.py: width = max(WIDTH, 1 << (longest - 1).bit_length())  # few widths, "
    "since each is compiled, 19: 1 -> "
)
_CHUNK = "lrt_jax/rl/logprobs.py: chunk: int = 128,, 13: 128 -> "
_NEVER = (
    "lrt_jax/rl/logprobs.py: NEVER = -1e30  # logit of a banned token; finite, so that its "
    "gradient is zero and not NaN, 9: 1e30 -> "
)
_SEQUENCES = 'lrt_jax/rl/losses.py: "sequences": _sum(1.0, started),, 13: '
_COUNTED = 'lrt_jax/rl/losses.py: "tokens": _sum(1.0, valid),, 10: '
_MASS = (
    "lrt_jax/rl/rollout.py: nucleus_mass=add(r.nucleus_mass, drawn.nucleus_mass, 1.0),, 53: 1.0 -> "
)
_BLOCK = (
    "lrt_jax/evaluation/metrics.py: block = max(1, 2**20 // sums.groups)  # some tens of MiB for "
    "any number of clusters, "
)
_TIE = (
    "lrt_jax/evaluation/predictions.py: right = decided & ((probability > 0.5) == "
    "(target > 0.5)) & ~unread_pairs(predictions), 43: target > 0.5 -> "
)
# By `Mutant.name`, why nobody could tell: these are not tried.
EQUIVALENT: Mapping[str, str] = {
    f"{_WIDTH}(1023)": "wider or narrower, the same texts arrive",
    f"{_WIDTH}(1025)": "wider or narrower, the same texts arrive",
    f"{_STEP}(1)": "any step will do, if it is the same for all evaluations",
    f"{_STEP}(-1)": "as with 1",
    f"{_TOKENS}(0)": "of a completion without tokens nothing is counted, value or gradient",
    f"{_WIDTHS}(2)": "wider, the same texts arrive",
    f"{_CHUNK}(129)": "the same log-probabilities in other pieces, some of them padding",
    f"{_CHUNK}(127)": "as with 129",
    f"{_SEQUENCES}_sum(1.0, started) -> (_sum(started, 1.0))": "the same count, either way around",
    f"{_COUNTED}_sum(1.0, valid) -> (_sum(valid, 1.0))": "the same count, either way around",
    f"{_MASS}(2.0)": "behind the end of a completion, where nothing is read",
    f"{_BLOCK}15: 2 -> (1)": "the same draws of the bootstrap, fewer of them at a time",
    f"{_BLOCK}12: 1 -> (2)": "the same draws, at least two at a time",
    f"{_TIE}(target >= 0.5)": "a tie among people, which the mean leaves out",
    f"{_NEVER}(1e+30)": "the same number: a float32 has no digits for the one that was added",
}


def define_flags(values: flags.FlagValues) -> None:
    """Defines this command's flags."""
    commands.define_text(values, "workdir", "Folder for a copy of the checkout, and logs.")
    flags.DEFINE_integer("sample", 100, "How many faults.", flag_values=values)
    flags.DEFINE_integer("seed", 0, "Of the sample.", flag_values=values)
    flags.DEFINE_string("json", None, "File for a line about each fault.", flag_values=values)
    flags.DEFINE_bool("resume", False, "Go on with that file.", flag_values=values)
    flags.DEFINE_list("tests", list(TESTS), "Files and folders of tests.", flag_values=values)


@dataclasses.dataclass(frozen=True)
class Known:
    """What is known of the tests when nothing is wrong.

    Attributes:
      seconds: of each test.
      reached: first lines of functions that each test calls, by file.
    """

    seconds: Mapping[str, float]
    reached: Mapping[str, Mapping[str, Sequence[int]]]

    def callers(self, mutant: Mutant) -> list[str]:
        """Tests that call the function with the fault, the quickest first.

        A fault outside of all functions is met by every test that calls one of the file.
        """

        def meets(lines: Sequence[int]) -> bool:
            return mutant.function in lines if mutant.function else bool(lines)

        tests = [x for x, files in self.reached.items() if meets(files.get(mutant.file, ()))]
        return sorted(tests, key=self.seconds.__getitem__)

    def wider(self, mutant: Mutant) -> list[str]:
        """All tests of the files whose tests call anything of the mutant's file."""
        files = {x.partition("::")[0] for x, met in self.reached.items() if mutant.file in met}
        tests = [x for x in self.seconds if x.partition("::")[0] in files]
        spent = Counter()
        for test in tests:
            spent[test.partition("::")[0]] += self.seconds[test]
        return sorted(tests, key=lambda test: spent[test.partition("::")[0]])


def mutated_files() -> list[Path]:
    """Where faults are planted."""
    return sorted(path for pattern in MUTATED for path in ROOT.glob(pattern))


def sample(count: int, seed: int) -> list[Mutant]:
    """Some of all faults, drawn by a seed."""
    found = [
        mutant
        for path in mutated_files()
        for mutant in mutants_of(str(path.relative_to(ROOT)), path.read_text())
    ]
    return random.Random(seed).sample(found, min(count, len(found)))


def learn(runner: Runner, folder: Path, tests: Sequence[str]) -> Known:
    """Runs the tests without a fault, file by file, or reads what an earlier call found.

    Args:
      runner: of a copy of the checkout whose files are instrumented.
      folder: for what is found.
      tests: files and folders.

    Raises:
      RuntimeError: some fail without a fault.
    """
    files = [path for test in tests for path in _test_files(ROOT / test)]
    seconds, reached = {}, {}
    for number, path in enumerate(files, 1):
        file = str(path.relative_to(ROOT))
        kept = folder / "known" / f"{file.replace('/', '-')}.json"
        if not kept.is_file():
            run = runner.run([file], 1800.0, stop=False)
            if run.outcome != PASSED:
                raise RuntimeError(f"{file}: {run.outcome} without a fault: {run.failed}")
            write_atomically(kept, json.dumps([run.seconds, run.reached]).encode())
            spent = sum(run.seconds.values())
            commands.log(f"tests without a fault {number}/{len(files)}: {file} {spent:.0f} s")
        some = json.loads(kept.read_text())
        seconds |= some[0]
        reached |= some[1]
    return Known(seconds, reached)


def _test_files(path: Path) -> list[Path]:
    return [path] if path.is_file() else sorted(path.rglob("test_*.py"))


def try_mutant(mutant: Mutant, runner: Runner, tree: Path, known: Known) -> dict:
    """Plants a fault, runs the tests that may catch it, and takes it out again.

    Returns:
      A line of the result: the mutant's fields, the outcome, and the test that failed.
    """
    if mutant.name in EQUIVALENT:
        return _line(mutant, "equivalent")
    path, source = tree / mutant.file, (ROOT / mutant.file).read_text()
    began = time.monotonic()
    path.write_text(mutant.apply(source))
    try:
        callers = known.callers(mutant)
        outcome, by = "survived", ""
        for tests in filter(None, (callers[:QUICK], callers[QUICK:], known.wider(mutant))):
            limit = SLACK + FACTOR * sum(known.seconds[x] for x in tests)
            run = runner.run(tests, limit)
            if run.outcome in (FAILED, TIMED_OUT):
                outcome, by = ("caught" if run.outcome == FAILED else TIMED_OUT), run.failed
                break
    finally:
        path.write_text(source)
    return _line(mutant, outcome, by, len(callers), round(time.monotonic() - began, 1))


def _line(
    mutant: Mutant, outcome: str, by: str = "", callers: int = 0, seconds: float = 0.0
) -> dict:
    about = {"outcome": outcome, "by": by, "callers": callers, "seconds": seconds}
    return {"name": mutant.name, **dataclasses.asdict(mutant), **about}


def copy_checkout(tree: Path) -> None:
    """Copies what tests read into a folder, where faults may be planted."""
    shutil.rmtree(tree, ignore_errors=True)
    tree.mkdir(parents=True)
    for path in [ROOT / name for name in COPIED] + [ROOT / "pyproject.toml", ROOT / "setup.py"]:
        if path.is_dir():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(path, tree / path.name, ignore=ignored)
        elif path.is_file():
            shutil.copyfile(path, tree / path.name)


def main(values: flags.FlagValues) -> None:
    """Runs the command with flags that are parsed."""
    folder = Path(values.workdir).absolute()
    file = Path(values.json) if values.json else folder / "mutants.jsonl"
    done = {}
    if values.resume and file.is_file():
        done = {x["name"]: x for x in map(json.loads, file.read_text().splitlines())}
    elif file.exists():
        raise ValueError(f"--json={file}: is there; go on with it by --resume, or name another")
    mutants, tree = sample(values.sample, values.seed), folder / "tree"
    copy_checkout(tree)
    file.parent.mkdir(parents=True, exist_ok=True)
    runner = Runner(tree, folder)
    try:
        for path in mutated_files():
            name = str(path.relative_to(ROOT))
            (tree / name).write_text(instrumented(name, path.read_text()))
        known = learn(runner, folder, values.tests)
        copy_checkout(tree)
        began, left = time.monotonic(), [x for x in mutants if x.name not in done]
        for number, mutant in enumerate(left, 1):
            line = try_mutant(mutant, runner, tree, known)
            done[mutant.name] = line
            with file.open("a") as out:
                out.write(json.dumps(line) + "\n")
            eta = (time.monotonic() - began) / number * (len(left) - number) / 60
            told = f": {line['outcome']} by {line['by']}" if line["by"] else f": {line['outcome']}"
            commands.log(f"{number}/{len(left)} ETA {eta:.0f} min {mutant}{told}")
    finally:
        runner.end()
    lines = [done[x.name] for x in mutants]
    commands.log(f"\n{table(lines)}")
    if any(line["outcome"] == "survived" for line in lines):
        sys.exit(1)


def table(lines: Sequence[Mapping]) -> str:
    """Faults by file and outcome, how many were caught, and those that were not."""
    kinds = ("caught", TIMED_OUT, "equivalent", "survived")
    counts = Counter((line["file"], line["outcome"]) for line in lines)
    rows = ["| file | " + " | ".join(kinds) + " |", "|---|---|---|---|---|"]
    for file in sorted({line["file"] for line in lines}):
        rows.append(f"| {file} | " + " | ".join(str(counts[file, kind]) for kind in kinds) + " |")
    total = Counter(line["outcome"] for line in lines)
    rows.append("| all | " + " | ".join(str(total[kind]) for kind in kinds) + " |")
    noticeable = len(lines) - total["equivalent"]
    rows.append(
        f"\nOf {len(lines)} faults, {total['equivalent']} change nothing that anybody could see. "
        f"Of the {noticeable} others the tests caught {noticeable - total['survived']}."
    )
    for line in lines:
        if line["outcome"] == "survived":
            place = f"{line['file']}:{line['line']}: {line['kind']}"
            rows.append(f"survived: {place}: {line['before']} -> {line['after']}")
    return "\n".join(rows)


def run() -> None:
    """Entry point."""
    commands.run(main, define_flags)


if __name__ == "__main__":
    run()
