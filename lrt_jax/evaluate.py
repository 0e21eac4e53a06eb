"""Evaluates a model on preference data: every pair in both orders, sampled and greedy.

    python -m lrt_jax.evaluate --model=RUN --workdir=DIR
        --config=configs/imagereward.py:tiny --config.data.source=imagereward
        --config.data.path=FOLDER

The config says which data, which listener and how to sample; --model says who is evaluated.
"""

import contextlib
import sys
from pathlib import Path

from absl import flags
from etils import epath

from lrt_jax import commands
from lrt_jax.bucket import Mirror
from lrt_jax.config import Config
from lrt_jax.parallel import processes


def define_flags(values: flags.FlagValues) -> None:
    """Defines this command's flags."""
    commands.define_config(values)
    commands.define_processes(values)
    commands.define_text(
        values, "model", "HF folder, workdir of a run, Hub id, or `tiny` for the built-in model."
    )
    commands.define_text(
        values,
        "workdir",
        "Folder, which may be gs://BUCKET/FOLDER, for eval/NAME.json and the prepared data.",
    )
    flags.DEFINE_string("split", "all", "Which split of the data, or all.", flag_values=values)
    flags.DEFINE_integer(
        "pairs", 0, "How many pairs of the split, drawn by seed; 0 for all.", flag_values=values
    )
    flags.DEFINE_string("name", "evaluation", "Name of the JSON file.", flag_values=values)


def main(values: flags.FlagValues) -> None:
    """Runs the command with flags that are parsed."""
    for name in ("split", "pairs"):
        commands.refuse_override(f"eval.{name}", f"take --{name}")
    changes = {
        "eval": {"split": values.split, "pairs": values.pairs, "listener": True},
        "loss": {"beta": 0.0},  # no evaluation asks the reference
    }
    config = commands.read_config(values.config, changes)
    home = commands.place("workdir", values.workdir)
    workdir, mirror = commands.open_workdir(home)
    # A run may be working in the same copy, from which a pull takes what is not in the bucket yet.
    with commands.claimed(workdir) if mirror else contextlib.nullcontext():
        _evaluate(values, config, home, workdir, mirror)


def _evaluate(
    values: flags.FlagValues,
    config: Config,
    home: epath.Path,
    workdir: Path,
    mirror: Mirror | None,
) -> None:
    if mirror:
        mirror.pull()

    from lrt_jax.training.evaluations import describe, evaluate_params
    from lrt_jax.training.export import refuse_training_data
    from lrt_jax.training.files import versions, write_json
    from lrt_jax.training.setup import open_run

    meet = mirror.meet if mirror else processes.meet
    run, params = open_run(config, workdir, commands.say, policy=values.model, meet=meet)
    refuse_training_data(run)
    content = evaluate_params(run, params, "evaluation")
    name = f"eval/{values.name}.json"
    write_json(workdir / name, {"model": values.model, "versions": versions(), **content})
    if mirror:
        mirror.meet("the evaluation is written")
    commands.say(describe(content, values.name))
    commands.say(f"results: {home / name}")


def run() -> None:
    """Entry point."""
    commands.run(main, define_flags, sys.modules[__name__])


if __name__ == "__main__":
    run()
