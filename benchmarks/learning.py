"""Does the listener help? The main job's arms over seeds, side by side, as a table.

    python -m benchmarks.learning --workdir=DIR

Every run is the command of the README with another seed or algorithm, on the same scenes and the
same held-out pairs. A run that has ended is not run again; one with other fields is refused.
"""

import json
import math
import statistics
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import scipy.stats
from absl import flags

from lrt_jax.cli import commands
from lrt_jax.reporting.results import compared_splits

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
        arm: [
            run_arm(workdir / f"{arm}-{seed}", seed, options, values.set) for seed in values.seeds
        ]
        for arm, options in ARMS.items()
    }
    commands.log("\n" + table(results))


def run_arm(folder: Path, seed: str, options: Sequence[str], fields: Sequence[str]) -> dict:
    """Results of one run, made in a process of its own as a user would.

    Args:
      folder: its workdir.
      seed: of the run.
      options: flags of the arm.
      fields: of the config, such as steps=60.
    """
    command = [
        *(sys.executable, "-m", "lrt_jax.main", "--config=configs/imagereward.py:tiny"),
        *(f"--workdir={folder}", f"--config.seed={seed}", *options),
        *(f"--config.{field}" for field in fields),
    ]
    commands.log(" ".join(command[1:]))
    subprocess.run(command, check=True)
    return json.loads((folder / "results.json").read_text())


def table(results: dict[str, list[dict]]) -> str:
    """Markdown: the warm start and the mean over seeds of each arm; what each seed gained; and by
    how much the first arm gained more than the second.

    Args:
      results: contents of `results.json`, seed by seed, by arm.
    """
    runs = [run for arm in results.values() for run in arm]
    means = [["mean over seeds", "warm start", *(c for arm in results for c in (arm, "gain"))]]
    seeds = [["gain by seed", *results]]
    between = [["difference of the gains", " - ".join(results), "95 % t-interval over seeds"]]
    for title, field, arms in _measures(results):
        start = _mean(run["before"].get(field) for arm in arms for run in arm)
        gains = [_gains(arm, field) for arm in arms]
        if start:
            means.append([title, start])
            for arm, gained in zip(arms, gains, strict=True):
                after = _mean(run["after"].get(field) for run in arm)
                means[-1] += [after, _mean((gain["gain"] for gain in gained), sign="+")]
        if all(gains):
            seeds.append([title, *("; ".join(map(with_interval, gained)) for gained in gains)])
            if len(results) == 2 and len(runs) == 2 * len(gains[0]) > 2:
                between.append([title, *_difference(*gains)])
    minutes = [run["seconds"] / 60 for run in runs]
    took = f"Each run took {min(minutes):.1f} to {max(minutes):.1f} minutes."
    return "\n\n".join([*map(markdown, (means, seeds, between)), took])


def _measures(results: dict[str, list[dict]]) -> Iterator[tuple[str, str, list[list[dict]]]]:
    """Title and field of every row, and what holds `before` and `after` of its split, by arm and
    seed; the rows of further splits follow those of the main one."""
    by_split = [[[*compared_splits(run)] for run in arm] for arm in results.values()]
    for i, (split, _, rows) in enumerate(by_split[0][0]):
        arms = [[splits[i][1] for splits in arm] for arm in by_split]
        for title, field in rows:
            yield title if i == 0 else f"{title}, {split}", field, arms


def markdown(rows: list[list[str]]) -> str:
    """A table of its rows, of which the first is the head."""
    head, *body = (f"| {' | '.join(row)} |" for row in rows)
    return "\n".join([head, "|---" * len(rows[0]) + "|", *body])


def _mean(values: Iterable[float | None], sign: str = "") -> str:
    known = [value for value in values if value is not None]
    return f"{statistics.mean(known):{sign}.3f}" if known else ""


def _gains(runs: list[dict], field: str) -> list[dict]:
    """What each run gained in a measure, where it is known."""
    gains = [run["after"]["gains"].get(field) for run in runs]
    return [gain for gain in gains if gain and gain["gain"] is not None]


def _difference(first: list[dict], second: list[dict]) -> list[str]:
    """Mean over seeds of the difference between two arms' gains, and its interval.

    The interval is Student's, over the runs: that of a seed alone knows nothing of another seed.
    """
    return over_seeds([a["gain"] - b["gain"] for a, b in zip(first, second, strict=True)])


def over_seeds(each: Sequence[float]) -> list[str]:
    """Mean over seeds, and its 95 % interval by Student's t."""
    low, high = scipy.stats.t.interval(
        0.95, len(each) - 1, loc=np.mean(each), scale=scipy.stats.sem(each)
    )
    return [f"{np.mean(each):+.3f}", f"[{low:+.3f}, {high:+.3f}]"]


def with_interval(gain: dict) -> str:
    """A gain of `results.json`, and its interval."""
    low, high = gain["ci95"] or (math.nan, math.nan)
    return f"{gain['gain']:+.3f} [{low:+.3f}, {high:+.3f}]"


def run() -> None:
    """Entry point."""
    commands.run(main, define_flags)


if __name__ == "__main__":
    run()
