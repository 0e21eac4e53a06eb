"""How soon is the first step of the built-in run done, with and without kept programs?

    python -m benchmarks.first_step --workdir=DIR

The README's command is started again and again, each time with another folder, and killed after
its first line about a step. The first start fills a folder of compiled programs; after it, starts
with `--compilation_cache=off` and starts that load from the folder take turns.
"""

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from absl import flags

from benchmarks.learning import markdown
from lrt_jax.cli import commands

ROOT = Path(__file__).parents[1]
OFF = "--compilation_cache=off"
COMMAND = (sys.executable, "-m", "lrt_jax.main", "--config=configs/imagereward.py")


def define_flags(values: flags.FlagValues) -> None:
    """Defines this command's flags."""
    commands.define_text(values, "workdir", "Folder of all runs and of what they compile.")
    flags.DEFINE_integer("repeats", 2, "Starts of either kind.", flag_values=values)


def main(values: flags.FlagValues) -> None:
    """Runs the command with flags that are parsed."""
    folder = Path(values.workdir).absolute()
    seconds_to_first_step(folder, "filling")
    seconds = {"off": [], "kept": []}
    for number in range(values.repeats):
        seconds["off"].append(seconds_to_first_step(folder, f"off-{number}", OFF))
        seconds["kept"].append(seconds_to_first_step(folder, f"kept-{number}"))
    commands.log("\n" + summary(seconds))


def seconds_to_first_step(folder: Path, name: str, *options: str) -> float:
    """From the start of a run to its first line about a step.

    Args:
      folder: of all runs.
      name: of this one's workdir.
      options: further flags.

    Raises:
      ValueError: it ended before.
    """
    command, errors = [*COMMAND, f"--workdir={folder / name}", *options], folder / f"{name}.err"
    folder.mkdir(parents=True, exist_ok=True)
    env = os.environ | {"XDG_CACHE_HOME": str(folder / "cache")}
    env.pop("JAX_COMPILATION_CACHE_DIR", None)  # with which JAX's own rules would hold
    began = time.monotonic()
    with errors.open("w") as stderr:
        process = subprocess.Popen(
            command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=stderr, text=True
        )
    try:
        if not any(line.startswith("step 1/") for line in process.stdout):
            raise ValueError(f"{' '.join(command[1:])}: took no step; {errors} says why")
        seconds = time.monotonic() - began
    finally:
        process.kill()
        process.communicate()
    commands.log(f"{name}: {seconds:.1f} s to the first step")
    return seconds


def summary(seconds: Mapping[str, Sequence[float]]) -> str:
    """Markdown: every start, and a sentence about their means."""
    rows = [["compiled programs", "seconds to the first step, start by start"]]
    titles = {"off": f"`{OFF}`", "kept": "kept by an earlier start"}
    rows += [[titles[kind], "; ".join(f"{x:.1f}" for x in seconds[kind])] for kind in titles]
    off, kept = (statistics.mean(seconds[kind]) for kind in titles)
    return (
        f"{markdown(rows)}\n\nThe second such run, in another `--workdir`, has taken its first "
        f"step after {kept:.0f} s,\nor with `{OFF}` after {off:.0f} s."
    )


def run() -> None:
    """Entry point."""
    commands.run(main, define_flags)


if __name__ == "__main__":
    run()
