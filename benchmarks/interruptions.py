"""Does a run that is interrupted, again and again, end in the same bits as one that never was?

    python -m benchmarks.interruptions --workdir=DIR
    python -m benchmarks.interruptions --workdir=DIR --signals=SIGTERM,SIGINT

Each run is the built-in model on a few drawn scenes, interrupted at random moments, every second
time while a checkpoint is being written, and started again with the same command until it is done.
Parameters, optimizer state, place in the data, metrics (but for clocks), completions and
evaluations are then compared, byte by byte, with those of a run of the same settings left alone.
"""

import contextlib
import dataclasses
import itertools
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import orbax.checkpoint as ocp
import pyarrow.parquet as pq
from absl import flags

from lrt_jax.cli import commands
from lrt_jax.reporting.metrics import read_metrics

ROOT = Path(__file__).parents[1]
CLOCK = ("seconds/", "tokens_per_second", "compilations")
SETTINGS = [
    {"loss.num_iterations": n, "loss.microbatches": m, "data.workers": w}
    for n, m, w in itertools.product((1, 2), (1, 2), (0, 2))
]
SMALL = {
    "steps": 6,
    "batch_size": 4,
    "group_size": 2,
    "checkpoint_every": 2,
    "completions_every": 2,
    "data.threads": 2,
    "data.scenes.train": 6,
    "data.scenes.validation": 2,
    "data.scenes.test": 1,
    "eval.every": 3,
    "eval.pairs": 2,
    "eval.batch_size": 4,
    "eval.others": (),
    "eval.held_out_listener": None,
}


def define_flags(values: flags.FlagValues) -> None:
    """Defines this command's flags."""
    commands.define_text(values, "workdir", "Folder of all runs.")
    flags.DEFINE_integer("runs", 20, "How many runs are interrupted.", flag_values=values)
    flags.DEFINE_integer("times", 2, "How often each is.", flag_values=values)
    flags.DEFINE_list("signals", ["SIGKILL"], "What by, in turn.", flag_values=values)
    flags.DEFINE_integer("seed", 0, "Of the moments.", flag_values=values)


def main(values: flags.FlagValues) -> None:
    """Runs the command with flags that are parsed."""
    folder, rng = Path(values.workdir).absolute(), random.Random(values.seed)
    signals = itertools.cycle(signal.Signals[name] for name in values.signals)
    compiled, seconds, all_met = folder / "compiled", {}, []
    for number in range(values.runs):
        index = number % len(SETTINGS)
        alone = folder / f"alone-{index}"
        if index not in seconds:
            began = time.monotonic()
            run_job(alone, SETTINGS[index], compiled)
            seconds[index] = time.monotonic() - began
        # A run that finds everything compiled takes about half the time.
        plan = [
            Interruption(
                next(signals),
                None if (number + turn) % 2 else rng.uniform(0.0, 0.5 * seconds[index]),
            )
            for turn in range(values.times)
        ]
        interrupted = folder / f"interrupted-{number}"
        met = run_job(interrupted, SETTINGS[index], compiled, plan)
        all_met.append(met)
        differ = differences(alone, interrupted)
        commands.log(
            f"run {number + 1}/{values.runs} {SETTINGS[index]}: {'; '.join(map(str, met))}: "
            + (f"DIFFERS in {', '.join(differ)}" if differ else "the same bits")
        )
        if differ:
            sys.exit(1)
    commands.log(f"\n{summary(all_met)}")


def summary(all_met: Sequence[Sequence["Met"]]) -> str:
    """Markdown: how many runs there were, and what each met.

    Args:
      all_met: what `run_job` returns, run by run, of runs that all end in the same bits.
    """
    columns = ("run", "updates a rollout", "microbatches", "loader workers", "interruptions")
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for number, met in enumerate(all_met):
        cells = [number + 1, *SETTINGS[number % len(SETTINGS)].values(), "; ".join(map(str, met))]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    slowest = max(m.seconds for met in all_met for m in met)
    runs = len(all_met)
    same = f"{runs} of {runs} runs end in the same bits."
    same += f" The slowest end took {slowest:.1f} s." if slowest else ""
    return "\n".join([same, "", *lines])


@dataclasses.dataclass(frozen=True)
class Interruption:
    """What happens to a launch.

    Attributes:
      by: the signal.
      after: seconds; None for the moment in which a checkpoint is being written.
    """

    by: signal.Signals
    after: float | None


@dataclasses.dataclass(frozen=True)
class Met:
    """What an interruption met, and how long the process took to end, if it had the choice."""

    what: str
    seconds: float

    def __str__(self) -> str:
        return f"{self.what}, gone in {self.seconds:.1f} s" if self.seconds else self.what


def run_job(
    workdir: Path,
    settings: Mapping[str, object],
    compiled: Path,
    plan: Sequence[Interruption] = (),
) -> list[Met]:
    """Runs a job until it is done, with interruptions on the way.

    Args:
      workdir: of the job.
      settings: fields of its config.
      compiled: folder of programs, so that a launch need not compile what another has.
      plan: for one launch after another; then one runs to its end.

    Returns:
      What the interruptions met.

    Raises:
      RuntimeError: a launch ended by itself, and not well.
    """
    met = []
    for interruption in [*plan, None]:
        process = launch(workdir, settings, compiled)
        well = [0]
        if interruption:
            met.append(_interrupt(process, workdir, interruption))
            well += [-interruption.by, 128 + interruption.by]
        said = process.communicate()[1].splitlines()
        if process.returncode not in well:
            raise RuntimeError("\n".join([f"{workdir}: the job failed:", *said[-5:]]))
    return met


def launch(workdir: Path, settings: Mapping[str, object], compiled: Path) -> subprocess.Popen:
    """Starts, or goes on with, a job of the settings."""
    fields = [f"--config.{name}={value}" for name, value in {**SMALL, **settings}.items()]
    command = [sys.executable, "-m", "lrt_jax.main", "--config=configs/imagereward.py:tiny"]
    return subprocess.Popen(
        [*command, f"--workdir={workdir}", *fields],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=os.environ | {"JAX_COMPILATION_CACHE_DIR": str(compiled)},
    )


def _interrupt(process: subprocess.Popen, workdir: Path, how: Interruption) -> Met:
    began = time.time()
    while process.poll() is None:
        saving = _unfinished(workdir / "checkpoints", began)
        if saving if how.after is None else time.time() - began > how.after:
            if how.by == signal.SIGKILL:
                process.kill()  # alone: its workers have to notice
            else:
                os.killpg(process.pid, how.by)  # as terminals and schedulers do
            sent = time.time()
            process.wait(timeout=120)
            what = f"{how.by.name} after {sent - began:.1f} s"
            what += f", writing step {saving.partition('.')[0]}" if saving else ""
            return Met(what, 0.0 if how.by == signal.SIGKILL else time.time() - sent)
        time.sleep(0.002)
    return Met(f"done before {how.by.name}", 0.0)


def _unfinished(folder: Path, since: float) -> str:
    """The checkpoint that is being written, not one that an earlier launch left behind."""
    for path in folder.glob("*tmp*"):
        with contextlib.suppress(FileNotFoundError):  # it is just being renamed
            if path.stat().st_ctime > since:
                return path.name
    return ""


def differences(one: Path, other: Path) -> list[str]:
    """What two workdirs do not have in common, clocks left out."""
    first, second = (dict(_content(folder)) for folder in (one, other))
    names = sorted(first.keys() | second.keys())
    return [name for name in names if first.get(name) != second.get(name)]


def numbers(workdir: Path) -> list[dict]:
    """Metrics of every step, clocks left out."""
    lines = read_metrics(workdir)
    return [{k: v for k, v in line.items() if not k.startswith(CLOCK)} for line in lines]


def _content(workdir: Path) -> Iterator[tuple[str, object]]:
    """Every part of a run's outcome that must not depend on being killed."""
    for line in numbers(workdir):
        yield f"metrics {line['step']}", line
    for path in sorted(workdir.glob("completions/*.parquet")):
        yield path.name, pq.read_table(path).to_pylist()
    for path in sorted(workdir.glob("eval/*.json")):
        yield path.name, path.read_bytes()
    yield "export", (workdir / "export" / "model.safetensors").read_bytes()
    last = max(int(path.name) for path in (workdir / "checkpoints").iterdir())
    folder = workdir / "checkpoints" / str(last)
    state = ocp.StandardCheckpointer().restore(folder / "state")
    for name, leaf in ocp.tree.to_flat_dict(state, sep="/").items():
        yield f"state {name}", leaf.tobytes()
    yield "data", (folder / "data" / "metadata").read_bytes()


def run() -> None:
    """Entry point."""
    commands.run(main, define_flags)


if __name__ == "__main__":
    run()
