"""Evaluates a model on preference data: every pair in both orders, sampled and greedy.

    lrt evaluate --model=RUN --workdir=DIR --config=imagereward:tiny
        --config.data.source=imagereward --config.data.path=FOLDER

The config says which data, which listener and how to sample; --model says who is evaluated.
"""

import contextlib

from absl import flags

from lrt_jax.cli import commands
from lrt_jax.cli.reward_model import define_model
from lrt_jax.config import Config
from lrt_jax.storage.bucket import is_address
from lrt_jax.storage.digests import sealed
from lrt_jax.storage.workdir import Workdir, open_workdir, step_of


def define_flags(values: flags.FlagValues) -> None:
    """Defines this command's flags."""
    commands.define_config(values)
    commands.define_processes(values)
    commands.define_compilation_cache(values)
    define_model(values)
    commands.define_text(
        values,
        "workdir",
        "Folder, which may be gs://BUCKET/FOLDER, for eval/NAME.json and the prepared data.",
    )
    flags.DEFINE_string("split", "all", "Which split of the data, or all.", flag_values=values)
    pairs = "How many pairs of the split, drawn by seed; 0 for all."
    flags.DEFINE_integer("pairs", 0, pairs, flag_values=values)
    flags.DEFINE_enum(
        "on_trained_pairs",
        "error",
        ["error", "skip"],
        "What to do about pairs that the model was trained on, or whose images it was trained on: "
        "stop, or leave them out and count them.",
        flag_values=values,
    )
    flags.DEFINE_string("name", "evaluation", "Name of the JSON file.", flag_values=values)


def main(values: flags.FlagValues) -> None:
    """Runs the command with flags that are parsed."""
    _check_name(values.name)
    for name, flag in {"split": "split", "others": "split", "pairs": "pairs"}.items():
        commands.refuse_override(f"eval.{name}", f"take --{flag}")
    evaluated = {"split": values.split, "others": (), "pairs": values.pairs, "listener": True}
    changes = {
        "eval": evaluated,
        "data": {"train_split": None},  # nothing is trained on
        "loss": {"beta": 0.0},  # no evaluation asks the reference
    }
    config = commands.read_config(values.config, changes)
    workdir = open_workdir(commands.resolve_folder("workdir", values.workdir))
    # A run may be working in the same copy, from which a pull takes what is not in the bucket yet.
    in_a_bucket = is_address(workdir.address)
    with commands.workdir_lock(workdir.folder) if in_a_bucket else contextlib.nullcontext():
        workdir.pull()
        _evaluate(values, config, workdir)


def _check_name(name: str) -> None:
    """Refuses a name under which the file would be another than `eval/NAME.json`, or a run's own.

    Raises:
      ValueError: it is one.
    """
    if step_of(name) is not None:
        raise ValueError(
            f"--name={name}: a run that works in this folder writes eval/{name}.json itself, and "
            "removes it when it goes back to an earlier step; take another name"
        )
    if not name or name.startswith(".") or "/" in name:
        raise ValueError(f"--name={name}: the name of a file, without folder, dot and ending")


def _evaluate(values: flags.FlagValues, config: Config, workdir: Workdir) -> None:
    from lrt_jax.training.evaluations import describe, evaluate_params, log_listeners_at_chance
    from lrt_jax.training.export import apart_from_training
    from lrt_jax.training.files import versions, write_json
    from lrt_jax.training.setup import open_run

    run, params = open_run(config, workdir.folder, policy=values.model, barrier=workdir.barrier)
    skip = values.on_trained_pairs == "skip"
    apart = apart_from_training(run, skip=skip)
    left_out = len(apart.left_out) - len(run.left_out)
    content = {
        "model": values.model,
        "versions": versions(),
        "trained_pairs_left_out": left_out,
        **evaluate_params(apart, params, "evaluation", config.sampling.weights),
    }
    name = f"eval/{values.name}.json"
    write_json(workdir.folder / name, sealed(content))
    workdir.barrier("the evaluation is written")
    commands.log(describe(content, values.name))
    log_listeners_at_chance(content, values.name)
    commands.log(f"results: {workdir.address}/{name}")


if __name__ == "__main__":
    commands.run(main, define_flags)
