"""Does a run that is killed, again and again, end in the same bits as one that never was?

    python -m benchmarks.kills --workdir=DIR

Each run is the built-in model on a few drawn scenes, killed with SIGKILL at random moments, some of
them while a checkpoint is being written, and started again with the same command until it is done.
Parameters, optimizer state, place in the data, metrics (but for clocks) and completions are then
compared, byte by byte, with those of the run of the same settings that was left alone.
"""

import itertools
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import orbax.checkpoint as ocp
import pyarrow.parquet as pq
from absl import flags

from lrt_jax import commands
from lrt_jax.reporting.metrics import read_metrics

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
}


def define_flags(values: flags.FlagValues) -> None:
    """Defines this command's flags."""
    commands.define_text(values, "workdir", "Folder of all runs.")
    flags.DEFINE_integer("runs", 20, "How many runs are killed.", flag_values=values)
    flags.DEFINE_integer("kills", 2, "How often each is.", flag_values=values)
    flags.DEFINE_integer("seed", 0, "Of the moments.", flag_values=values)


def main(values: flags.FlagValues) -> None:
    """Runs the command with flags that are parsed."""
    folder, rng = Path(values.workdir).absolute(), random.Random(values.seed)
    seconds = {}
    for number in range(values.runs):
        index = number % len(SETTINGS)
        alone = folder / f"alone-{index}"
        if index not in seconds:
            began = time.monotonic()
            run_killed(alone, SETTINGS[index], [])
            seconds[index] = time.monotonic() - began
        # Every second kill waits for a checkpoint that is being written.
        moments = [
            None if kill % 2 else rng.uniform(0.0, seconds[index]) for kill in range(values.kills)
        ]
        killed = folder / f"killed-{number}"
        told = run_killed(killed, SETTINGS[index], moments)
        differ = differences(alone, killed)
        commands.say(
            f"run {number + 1}/{values.runs} {SETTINGS[index]}: {'; '.join(told)}: "
            + (f"DIFFERS in {', '.join(differ)}" if differ else "the same bits")
        )
        if differ:
            sys.exit(1)


def run_killed(
    workdir: Path, settings: Mapping[str, int], moments: list[float | None]
) -> list[str]:
    """Runs a job until it is done, killing it at some moments on the way.

    Args:
      workdir: of the job.
      settings: fields of its config.
      moments: seconds after which one launch after another is killed; None for the moment in which
        a checkpoint is being written.

    Returns:
      What each kill met.
    """
    fields = (f"--config.{name}={value}" for name, value in {**SMALL, **settings}.items())
    command = [sys.executable, "-m", "lrt_jax.main", "--config=configs/imagereward.py:tiny"]
    # A launch compiles what the one before it has compiled; kept, it takes no time.
    cache = {"JAX_COMPILATION_CACHE_DIR": str(workdir.parent / "compiled")}
    told = []
    for moment in [*moments, "never"]:
        process = subprocess.Popen(
            [*command, f"--workdir={workdir}", *fields],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | cache,
        )
        if moment != "never":
            told.append(_kill(process, workdir, moment))
        said = process.communicate()[1].splitlines()
        if process.returncode not in (0, -signal.SIGKILL):
            raise RuntimeError(f"{workdir}: the job failed: {said[-1:]}")
    return told


def _kill(process: subprocess.Popen, workdir: Path, moment: float | None) -> str:
    began = time.monotonic()
    while process.poll() is None:
        saving = [*(workdir / "checkpoints").glob("*tmp*")]
        if saving if moment is None else time.monotonic() - began > moment:
            process.send_signal(signal.SIGKILL)
            what = f"while writing {saving[0].name}" if saving else ""
            return f"killed after {time.monotonic() - began:.1f} s {what}".strip()
        time.sleep(0.002)
    return "done before it was killed"


def differences(one: Path, other: Path) -> list[str]:
    """What two workdirs do not have in common, clocks left out."""
    first, second = (dict(_content(folder)) for folder in (one, other))
    names = sorted(first.keys() | second.keys())
    return [name for name in names if first.get(name) != second.get(name)]


def _content(workdir: Path) -> Iterator[tuple[str, object]]:
    """Every part of a run's outcome that must not depend on being killed."""
    for line in read_metrics(workdir):
        yield f"metrics {line['step']}", {k: v for k, v in line.items() if not k.startswith(CLOCK)}
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
    for path in sorted((folder / "data").rglob("*")):
        if path.is_file():
            yield f"data {path.name}", path.read_bytes()


def run() -> None:
    """Entry point."""
    commands.run(main, define_flags, sys.modules[__name__])


if __name__ == "__main__":
    run()
