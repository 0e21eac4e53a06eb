"""Does a policy learn as well from samples of weights in int8? The built-in run with and without.

    python -m benchmarks.int8_sampling --workdir=DIR

Every run is the command of the README with another seed, with importance weights capped at 2, and
sampled from full weights or from weights in int8. All are evaluated with full weights, on the same
pairs. A run that has ended is not run again; one with other fields is refused.
"""

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from absl import flags

from benchmarks.learning import markdown, over_seeds, run_arm
from lrt_jax.cli import commands
from lrt_jax.evaluation.evaluator import MODES, predictions_from_dict
from lrt_jax.evaluation.metrics import Gain, paired_gain
from lrt_jax.reporting.metrics import read_metrics
from lrt_jax.training.evaluations import evaluation_path

CAPPED = "--config.loss.importance_sampling_cap=2.0"
ARMS = {"full": (CAPPED,), "int8": (CAPPED, "--config.sampling.weights=int8")}
LAST = 10  # steps that the reward is a mean of
REWARD = f"reward, last {LAST} steps"
METRICS = {  # what is said of the steps: title, metric, and how its values are taken together
    "mean, nats": ("sampler_drift_mean", statistics.mean),
    "largest, nats": ("sampler_drift_max", max),
    "cut, of all tokens": ("sampler_cut", statistics.mean),
    "a rollout, s": ("seconds/rollout", statistics.median),
}


def define_flags(values: flags.FlagValues) -> None:
    """Defines this command's flags."""
    commands.define_text(values, "workdir", "Folder of all runs.")
    flags.DEFINE_list("seeds", ["0", "1", "2"], "Of the runs.", flag_values=values)
    flags.DEFINE_list("set", [], "Fields for every run: steps=60.", flag_values=values)


def main(values: flags.FlagValues) -> None:
    """Runs the command with flags that are parsed."""
    workdir = Path(values.workdir).absolute()
    runs = {
        arm: [_run(workdir / f"{arm}-{seed}", seed, options, values.set) for seed in values.seeds]
        for arm, options in ARMS.items()
    }
    commands.log("\n" + tables(runs))


def tables(runs: Mapping[str, Sequence[Mapping]]) -> str:
    """Markdown: how far samplers are from policies, how good these become, and the difference.

    Args:
      runs: what `_run` returns, seed by seed, by arm.
    """
    drift = [["weights", *METRICS]]
    for arm, found in runs.items():
        each = ["; ".join(f"{run['steps'][name]:.2g}" for run in found) for name in METRICS]
        drift.append([arm, *each])
    figures = [["seed by seed", *runs]]
    for name in runs["full"][0]["figures"]:
        every = ["; ".join(f"{run['figures'][name]:.4g}" for run in arm) for arm in runs.values()]
        figures.append([name, *every])
    change = [
        ["int8 - full", "seed by seed, paired 95 % interval", "mean", "t-interval over seeds"]
    ]
    pairs = [*zip(runs["full"], runs["int8"], strict=True)]
    for mode in MODES:
        gains = [_gain(full, int8, mode) for full, int8 in pairs]
        each = [gain.gain for gain in gains]
        change.append([f"accuracy, {mode}", "; ".join(map(_written, gains)), *over_seeds(each)])
    rewards = [int8["figures"][REWARD] - full["figures"][REWARD] for full, int8 in pairs]
    change.append([REWARD, "; ".join(f"{x:+.3f}" for x in rewards), *over_seeds(rewards)])
    return "\n\n".join(map(markdown, (drift, figures, change)))


def _run(folder: Path, seed: str, options: Sequence[str], fields: Sequence[str]) -> dict:
    """A run's figures by name, those of its steps, and the judgements of its last evaluation."""
    results, steps = run_arm(folder, seed, options, fields), read_metrics(folder)
    last = json.loads(evaluation_path(folder, results["steps"]).read_text())
    figures = {f"accuracy, {mode}": last[mode]["accuracy"] for mode in MODES}
    figures[REWARD] = statistics.mean(step["reward/total/mean"] for step in steps[-LAST:])
    course = {name: of([s[metric] for s in steps]) for name, (metric, of) in METRICS.items()}
    return {"figures": figures, "steps": course, "judgements": last["judgements"]}


def _gain(full: Mapping, int8: Mapping, mode: str) -> Gain:
    """By how much one seed's run with int8 is more accurate, prediction by prediction."""
    return paired_gain(*(predictions_from_dict(run["judgements"][mode]) for run in (full, int8)))


def _written(gain: Gain) -> str:
    low, high = gain.ci95 or (float("nan"),) * 2
    return f"{gain.gain:+.3f} [{low:+.3f}, {high:+.3f}]"


def run() -> None:
    """Entry point."""
    commands.run(main, define_flags)


if __name__ == "__main__":
    run()
