"""Which steps, learning rate and KL weight suit the built-in task? A grid of runs, as a table.

    python -m benchmarks.task_search --workdir=DIR

Every run is the command of the README on scenes of another seed than the main job's, so that the
pairs by which a setting is chosen are not those that its figures are told of. A run that has ended
is not run again.
"""

import itertools
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from absl import flags

from benchmarks.learning import markdown, run_arm, with_interval
from lrt_jax.cli import commands
from lrt_jax.reporting.metrics import read_metrics

SCENES = "data.scenes.seed=3"
SHOWN = {
    "sampled": "accuracy",
    "greedy": "accuracy_greedy",
    "trace truth, greedy": "trace_truth_greedy",
    "listener's confidence": "listener_confidence",
}


def define_flags(values: flags.FlagValues) -> None:
    """Defines this command's flags."""
    commands.define_text(values, "workdir", "Folder of all runs.")
    grid = {"steps": ["100"], "learning_rate": ["5e-4", "1e-3", "2e-3"], "beta": ["0.01", "0.04"]}
    for name, default in grid.items():
        flags.DEFINE_list(name, default, f"Values of {name} to try.", flag_values=values)
    flags.DEFINE_list("seeds", ["0"], "Of the runs.", flag_values=values)
    flags.DEFINE_list("set", [], "Fields for every run: model.path=RUN.", flag_values=values)


def main(values: flags.FlagValues) -> None:
    """Runs the command with flags that are parsed."""
    rows = [["steps", "learning rate", "KL weight", "seed", *SHOWN, "KL, last 10 steps", "minutes"]]
    for cell in itertools.product(values.steps, values.learning_rate, values.beta, values.seeds):
        steps, rate, beta, seed = cell
        fields = [SCENES, f"steps={steps}", f"optimizer.learning_rate={rate}", f"loss.beta={beta}"]
        folder = Path(values.workdir).absolute() / "-".join(cell)
        results = run_arm(folder, seed, (), [*fields, *values.set])
        rows.append([*cell, *_figures(results), *_course(folder, results)])
    commands.log("\n" + markdown(rows))


def _figures(results: Mapping) -> Iterator[str]:
    """Before, after and the gain with its interval of each measure."""
    for field in SHOWN.values():
        gain = with_interval(results["after"]["gains"][field])
        yield f"{results['before'][field]:.3f} -> {results['after'][field]:.3f}, {gain}"


def _course(folder: Path, results: Mapping) -> Sequence[str]:
    last = [line["kl"] for line in read_metrics(folder)[-10:] if "kl" in line]
    kl = f"{statistics.mean(last):.3f}" if last else ""
    return kl, f"{results['seconds'] / 60:.1f}"


def run() -> None:
    """Entry point."""
    commands.run(main, define_flags)


if __name__ == "__main__":
    run()
