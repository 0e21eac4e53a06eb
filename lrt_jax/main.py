"""Trains a reasoner, evaluates it before and after, and exports it.

    lrt train --config=imagereward

Any field of the config can be set on the command line, such as --config.steps=20. A run that was
stopped goes on with the same command; another run wants another --workdir=DIR.
"""

from absl import flags

from lrt_jax.cli import commands
from lrt_jax.storage.workdir import open_workdir


def define_flags(values: flags.FlagValues) -> None:
    """Defines this command's flags."""
    commands.define_config(values)
    commands.define_processes(values)
    commands.define_compilation_cache(values)
    flags.DEFINE_string(
        "workdir",
        None,
        "Folder of the run, which may be gs://BUCKET/FOLDER; a run found there goes on. Unset: "
        "runs/NAME, after the config file.",
        flag_values=values,
    )
    flags.DEFINE_bool(
        "allow_changes",
        False,
        "Go on with a run although fields differ that change no parameter, such as eval.every.",
        flag_values=values,
    )
    flags.DEFINE_integer(
        "check_devices",
        0,
        "Check flags and config as for so many TPU chips, and end: nothing is started. 0 runs.",
        lower_bound=0,
        flag_values=values,
    )


def main(values: flags.FlagValues) -> None:
    """Runs the command with flags that are parsed."""
    if values.check_devices:
        commands.check_config(values.config, values.check_devices)
        return
    config = commands.read_config(values.config)
    path = f"runs/{commands.config_name()}" if values.workdir is None else values.workdir
    workdir = open_workdir(commands.resolve_folder("workdir", path))

    from lrt_jax.reporting.results import results_table
    from lrt_jax.training.loop import train

    with commands.workdir_lock(workdir.folder):
        results = train(config, workdir, allow_changes=values.allow_changes)
    commands.log(f"\n{results_table(results)}")
    commands.log(f"results: {workdir.address}/results.json")
    commands.log(f"curves:  {workdir.address}/curves.png")
    commands.log(f"model:   {results['export']}")


if __name__ == "__main__":
    commands.run(main, define_flags)
