"""Exports a checkpoint of a run as a Hugging Face folder.

    python -m lrt_jax.export --workdir=RUN --output=FOLDER

The config is the run's own. A finished run has exported its last checkpoint to RUN/export already.
"""

import sys
from pathlib import Path

from absl import flags

from lrt_jax import commands
from lrt_jax.config import Config
from lrt_jax.disk import read_json
from lrt_jax.parallel import processes


def define_flags(values: flags.FlagValues) -> None:
    """Defines this command's flags."""
    commands.define_text(values, "workdir", "Folder of the run.")
    commands.define_text(values, "output", "Folder to write; replaced if it is there.")
    commands.define_processes(values)
    flags.DEFINE_integer("step", 0, "Which checkpoint; 0 for the last.", flag_values=values)


def main(values: flags.FlagValues) -> None:
    """Runs the command with flags that are parsed."""
    workdir = Path(values.workdir).expanduser().absolute()
    path = workdir / "config.json"
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; --workdir is the folder of a run")
    commands.start()
    processes.check_shared(workdir)

    from lrt_jax.training.checkpoint import Checkpointer, abstract
    from lrt_jax.training.export import export_params
    from lrt_jax.training.setup import make_learner, open_run

    run, params = open_run(Config.parse(read_json(path)["config"]), workdir, commands.say)
    with Checkpointer(workdir, keep=0) as checkpointer:
        step = processes.told("step", checkpointer.find(values.step))
        state = checkpointer.restore(step, abstract(make_learner(run, params)[0]))
    output = Path(values.output).expanduser().absolute()
    folder = export_params(state.params, output, run, step=step)
    commands.say(f"model of step {step}: {folder}")


def run() -> None:
    """Entry point."""
    commands.run(main, define_flags, sys.modules[__name__])


if __name__ == "__main__":
    run()
