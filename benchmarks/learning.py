"""Does the listener help? The main job's arms over seeds, side by side, as a table.

    python -m benchmarks.learning --workdir=DIR

Every run is the command of the README with another seed or algorithm, on the same scenes and the
same held-out pairs. A run that is there already is not run again.
"""

import json
import statistics
import subprocess
import sys
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
    if not (folder / "results.json").is_file():
        command = [
            *(sys.executable, "-m", "lrt_jax.main", "--config=configs/imagereward.py:tiny"),
            *(f"--workdir={folder}", f"--config.seed={seed}", *ARMS[arm]),
            *(f"--config.{field}" for field in fields),
        ]
        commands.say(" ".join(command[1:]))
        subprocess.run(command, check=True)
    return json.loads((folder / "results.json").read_text())


def table(results: dict[str, list[dict]]) -> str:
    """Markdown: the warm start, and each arm's mean over seeds with every seed's gain."""
    names = [f"{arm}, after" for arm in results] + [f"{arm}, gain by seed" for arm in results]
    lines = [
        "| | warm start | " + " | ".join(names) + " |",
        "|---|" + "---|" * (1 + len(names)),
    ]
    for title, field in ROWS:
        runs = [run for arm in results.values() for run in arm]
        befores = [run["before"][field] for run in runs if run["before"][field] is not None]
        if not befores:
            continue
        cells = [_mean(befores)]
        cells += [_mean([run["after"][field] for run in arm]) for arm in results.values()]
        cells += [_gains(arm, field) for arm in results.values()]
        lines.append(f"| {title} | " + " | ".join(cells) + " |")
    minutes = [run["seconds"] / 60 for run in runs]
    lines.append(f"\nEach run took {min(minutes):.1f} to {max(minutes):.1f} minutes.")
    return "\n".join(lines)


def _mean(values: list) -> str:
    return f"{statistics.mean(values):.3f}"


def _gains(runs: list[dict], field: str) -> str:
    gains = [run["after"]["gains"].get(field) for run in runs]
    if None in gains:
        return ""
    parts = (
        f"{g['gain']:+.3f} [{g['ci95'][0]:+.3f}, {g['ci95'][1]:+.3f}]" if g["ci95"] else "-"
        for g in gains
    )
    return "<br>".join(parts)


def run() -> None:
    """Entry point."""
    commands.run(main, define_flags, sys.modules[__name__])


if __name__ == "__main__":
    run()
