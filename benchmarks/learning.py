"""Does the listener help? The main job's arms over seeds, side by side, as a table.

    python -m benchmarks.learning --workdir=DIR

Every run is the command of the README with another seed or algorithm, on the same scenes and the
same held-out pairs. A run that has ended is not run again; one with other fields is refused.
"""

import json
import statistics
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from absl import flags

from lrt_jax import commands
from lrt_jax.reporting.results import ROWS

ARMS = {
    "listener_grpo": (),
    "grpo": ("--config.algorithm=grpo", "--config.eval.listener=true"),
}


def define_flags(values: flags.FlagValues) -> None:
    """Defines this command's flags."""
    commands.define_text(values, "workdir", "Folder of all runs.")
    flags.DEFINE_list("seeds", ["0", "1", "2"], "Of the runs.", flag_values=values)
    flags.DEFINE_list("set", [], "Fields for every run: steps=60.", flag_values=values)


def main(values: flags.FlagValues) -> None:
    """Runs the command with flags that are parsed."""
    workdir = Path(values.workdir).absolute()
    results = {
        arm: [run_arm(workdir, arm, seed, values.set) for seed in values.seeds] for arm in ARMS
    }
    commands.say("\n" + table(results))


def run_arm(workdir: Path, arm: str, seed: str, fields: list[str]) -> dict:
    """Results of one run, made in a process of its own as a user would."""
    folder = workdir / f"{arm}-{seed}"
    command = [
        *(sys.executable, "-m", "lrt_jax.main", "--config=configs/imagereward.py:tiny"),
        *(f"--workdir={folder}", f"--config.seed={seed}", *ARMS[arm]),
        *(f"--config.{field}" for field in fields),
    ]
    commands.say(" ".join(command[1:]))
    subprocess.run(command, check=True)
    return json.loads((folder / "results.json").read_text())


def table(results: dict[str, list[dict]]) -> str:
    """Markdown: the warm start, each arm's mean over its seeds, and what each seed gained.

    Args:
      results: contents of `results.json`, seed by seed, by arm.
    """
    arms = list(results)
    titles = ["", "warm start", *arms, *(f"gain of {arm}, mean: by seed" for arm in arms)]
    lines = [_row(titles), "|---" * len(titles) + "|"]
    runs = [run for arm in results.values() for run in arm]
    for title, field in ROWS:
        start = _mean(run["before"][field] for run in runs)
        if start:
            after = [_mean(run["after"][field] for run in arm) for arm in results.values()]
            lines.append(_row([title, start, *after, *(_gains(results[x], field) for x in arms)]))
    minutes = [run["seconds"] / 60 for run in runs]
    lines.append(f"\nEach run took {min(minutes):.1f} to {max(minutes):.1f} minutes.")
    return "\n".join(lines)


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _mean(values: Iterable[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{statistics.mean(known):.3f}" if known else ""


def _gains(runs: list[dict], field: str) -> str:
    """The mean over seeds, and each seed's own with its paired interval."""
    gains = [run["after"]["gains"].get(field) for run in runs]
    if any(gain is None or gain["gain"] is None for gain in gains):
        return ""
    mean = statistics.mean(gain["gain"] for gain in gains)
    return f"**{mean:+.3f}**: " + ", ".join(map(_gain, gains))


def _gain(gain: dict) -> str:
    bounds = gain["ci95"]
    interval = f" [{bounds[0]:+.3f}, {bounds[1]:+.3f}]" if bounds else ""
    return f"{gain['gain']:+.3f}{interval}"


def run() -> None:
    """Entry point."""
    commands.run(main, define_flags, sys.modules[__name__])


if __name__ == "__main__":
    run()
