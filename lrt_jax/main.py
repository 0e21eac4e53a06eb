"""Trains a reasoner, evaluates it before and after, and exports it.

    python -m lrt_jax.main --config=configs/hpdv2.py:tiny --config.data.path=FOLDER --workdir=DIR

Any field of the config can be set on the command line, such as --config.steps=20. A run that was
stopped goes on with the same command.
"""

import sys

from absl import flags

from lrt_jax import commands


def define_flags(values: flags.FlagValues) -> None:
    """Defines this command's flags."""
    commands.define_config(values)
    commands.define_text(values, "workdir", "Folder of the run; a run found there goes on.")


def main(values: flags.FlagValues) -> None:
    """Runs the command with flags that are parsed."""
    config = commands.read_config(values.config)
    workdir = commands.make_workdir(values.workdir)

    from lrt_jax.reporting.results import results_table
    from lrt_jax.training.loop import train

    results = train(config, workdir, commands.say)
    commands.say(f"\n{results_table(results)}")
    commands.say(f"results: {workdir / 'results.json'}")
    commands.say(f"curves:  {workdir / 'curves.png'}")
    commands.say(f"model:   {results['export']}")


def run() -> None:
    """Entry point."""
    commands.run(main, define_flags, sys.modules[__name__])


if __name__ == "__main__":
    run()
