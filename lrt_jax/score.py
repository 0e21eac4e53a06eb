"""Asks a reward model which images people would prefer for a caption, and why.

    lrt score --model=RUN --caption="a red circle" --images=a.png,b.png
    lrt score --model=RUN --input=pairs.jsonl --output=scores.jsonl

Of two images it tells the probability that the first is preferred, with the reasoning in both
orders; more are ranked. A file of rows, JSON lines, CSV or parquet, has the columns caption, first
and second; the same command goes on with one that was stopped. Its exit code is 1 where a row was
bad.
"""

import json
from pathlib import Path

from absl import flags

from lrt_jax.cli import commands
from lrt_jax.cli.reward_model import define_reward_model, open_reward_model
from lrt_jax.parallel import processes
from lrt_jax.storage.disk import expanded

BY_HAND, BY_FILE = ("caption", "images"), ("input", "output")
OF_RANKING = ("method", "anchors")


def define_flags(values: flags.FlagValues) -> None:
    """Defines this command's flags."""
    define_reward_model(values)
    flags.DEFINE_string("caption", None, "What the images are to show.", flag_values=values)
    flags.DEFINE_list(
        "images",
        None,
        "Files of two or more images, with commas between; a name with a comma in double quotes.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "input", None, "File of rows to compare: .jsonl, .csv or .parquet.", flag_values=values
    )
    flags.DEFINE_string(
        "output",
        None,
        "File to write, .jsonl or .parquet; what others wrote is never replaced.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "image_root",
        None,
        "Folder that paths of images in --input are relative to; unset: that of the file.",
        flag_values=values,
    )
    flags.DEFINE_integer(
        "votes",
        1,
        "Completions for each order of a pair; 1 takes the likeliest one, more are sampled.",
        lower_bound=1,
        flag_values=values,
    )
    flags.DEFINE_enum(
        "method",
        "all",
        ["all", "anchors"],
        "How more than two images are ranked: each against each, or each against some.",
        flag_values=values,
    )
    flags.DEFINE_integer(
        "anchors", None, "Against how many, then; unset: 2.", lower_bound=1, flag_values=values
    )
    flags.DEFINE_bool("json", False, "Print one JSON object and nothing else.", flag_values=values)
    commands.define_processes(values)
    commands.define_compilation_cache(values)


def main(values: flags.FlagValues) -> None:
    """Runs the command with flags that are parsed."""
    given = [x for x in (*BY_HAND, *BY_FILE, "image_root") if values[x].value is not None]
    ranks = given == [*BY_HAND] and len(values.images) > 2
    if unused := [x for x in OF_RANKING if values[x].present and not ranks]:
        raise ValueError(f"--{unused[0]}: only three and more --images are ranked")
    if values.anchors is not None and values.method != "anchors":
        raise ValueError(f"--anchors={values.anchors}: add --method=anchors")
    if given == [*BY_HAND]:
        _score_images(values)
    elif [x for x in given if x != "image_root"] == [*BY_FILE]:
        _score_file(values)
    else:
        raise ValueError(
            f"{', '.join(f'--{x}' for x in given) or 'nothing to score'}: give --caption and "
            "--images, or --input and --output"
        )


def _score_images(values: flags.FlagValues) -> None:
    if len(values.images) < 2:
        raise ValueError("--images: name at least two, with a comma between")
    commands.start()

    from lrt_jax.reporting import verdicts

    model = open_reward_model(values)
    names = values.images
    images = [expanded(name) for name in names]
    if len(names) == 2:
        first, second = images
        result = model.compare(
            caption=values.caption, first=first, second=second, votes=values.votes
        )
        page, fields = verdicts.comparison_page, verdicts.comparison_json
    else:
        ranked = {"method": values.method, "anchors": values.anchors, "votes": values.votes}
        result = model.rank(caption=values.caption, images=images, **ranked)
        page, fields = verdicts.ranking_page, verdicts.ranking_json
    asked = {"caption": values.caption, "images": names}
    if values.json:
        commands.log(json.dumps({**asked, **fields(result)}, indent=1))
    else:
        commands.log(page(result, **asked))


def _score_file(values: flags.FlagValues) -> None:
    commands.start()

    from lrt_jax.inference.rows import RowsFile
    from lrt_jax.inference.scoring import Scoring, job_of
    from lrt_jax.models.folders import model_folder

    root = None if values.image_root is None else _local_path(values, "image_root")
    output = _local_path(values, "output")
    rows = RowsFile(_local_path(values, "input"), root)
    models = {name: values[name].value for name in ("model", "listener")}
    folders = {name: path and model_folder(path) for name, path in models.items()}
    names = ("votes", "batch_size", "dtype", "listener_style")
    options = {name: values[name].value for name in names}
    job = job_of(rows, folders, **options)
    done = Scoring(rows, output, job, values.votes).run(lambda: open_reward_model(values))
    if values.json:
        commands.log(json.dumps({"output": str(output), "rows": done.rows, "bad": done.bad}))
    else:
        bad = f", {done.bad:,} of them bad: see their `error`" if done.bad else ""
        commands.log(f"{done.rows:,} rows{bad}\nscores: {output}")
    if done.bad:
        raise processes.EndTogether(1)


def _local_path(values: flags.FlagValues, name: str) -> Path:
    """A file or folder that a flag names."""
    given = values[name].value
    if "://" in given:
        raise ValueError(f"--{name}={given}: name a path of this machine")
    return Path(expanded(given))


if __name__ == "__main__":
    commands.run(main, define_flags)
