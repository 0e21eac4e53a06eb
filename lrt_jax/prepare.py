"""Prepares a downloaded preference data set for training and evaluation.

Decodes every image once, stores equal images once, adds up votes for the same pair, splits by
caption, keeps what is near a test set out of training, and writes two tables and a report,
build_report.md. The output appears whole or not at all; the same command goes on with a build that
did not end, and finds one that did.

  lrt prepare --source=imagereward --output=prepared/imagereward
  lrt prepare --source=folder --input=my/pairs --output=prepared/mine
  lrt prepare --inspect=prepared/mine

The first fetches the data set from where it is published; the last shows the report of a prepared
set, and draws some of its pairs: pairs.png.
"""

import functools
from pathlib import Path
from typing import get_args

from absl import flags

from lrt_jax.cli import commands
from lrt_jax.config.choices import NearDuplicates, OnBadInput
from lrt_jax.data.dataset.prepared_set import READABLE_REPORT, REPORT, PreparedSet
from lrt_jax.data.preparation.prepare import prepare
from lrt_jax.data.preparation.report import BuildReport
from lrt_jax.data.preparation.report_page import left_out, page
from lrt_jax.data.sources import SOURCES

SHOWN = 5  # bad records, of those that build_report.json lists


def define_flags(values: flags.FlagValues) -> None:
    """Defines this command's flags."""
    text = functools.partial(flags.DEFINE_string, flag_values=values)
    choice = functools.partial(flags.DEFINE_enum, flag_values=values)
    text(
        "source",
        None,
        f"Which data set the input is: {', '.join(SOURCES)}, or package.module:SOURCE of your own.",
    )
    text(
        "input",
        None,
        "Folder of the data set, archives packed or not; OWNER/NAME of the Hugging Face Hub; or "
        "gs://BUCKET/FOLDER. Unset: where the source is published.",
    )
    text("output", None, "Folder to make, a prepared set.")
    text("downloads", None, "Folder for what is fetched; unset: `downloads` beside the output.")
    text(
        "image_root",
        None,
        "Another folder with images, which records may name by absolute or by relative paths. "
        "Unset: absolute paths and links that lead out of the input are refused.",
    )
    text(
        "split_fractions",
        None,
        "Share of the captions by split, for example train=0.9,validation=0.05,test=0.05. "
        "Unset: the source's own splits, or these where it has none, with more for validation and "
        "test where there are few captions.",
    )
    flags.DEFINE_integer("seed", 0, "Seed of the split.", flag_values=values)
    choice(
        "on_bad_example",
        "error",
        list(get_args(OnBadInput)),
        "What to do about images that cannot be used: stop and name them, or leave them out, with "
        "their pairs, and count them.",
    )
    choice(
        "near_duplicates",
        "merge",
        list(get_args(NearDuplicates)),
        "Whether pictures that look the same are one, and captions that read nearly the same stay "
        "in one split, away from test splits; or only what is equal.",
    )
    text(
        "criterion",
        "",
        "What people were asked, where a data set holds judgements of several criteria: overall, "
        "alignment, coherence or style.",
    )
    flags.DEFINE_list(
        "test_sets",
        [],
        "Prepared sets whose test splits are kept out of this one's training data.",
        flag_values=values,
    )
    text("inspect", None, "Prepared set to look at, in place of preparing one.")
    text("picture", None, "File of the drawn pairs; unset: pairs.png there.")


def parse_fractions(text: str | None) -> dict[str, float] | None:
    """Reads `name=fraction,...`.

    Raises:
      ValueError: text of another form.
    """
    if text is None:
        return None
    try:
        pairs = [part.split("=") for part in text.split(",")]
        return {name.strip(): float(fraction) for name, fraction in pairs}
    except ValueError:
        raise ValueError(f"--split_fractions={text}: write name=fraction,name=fraction") from None


def summary(report: BuildReport) -> str:
    """A report in a few readable lines."""
    lines = [
        f"{report.source} ({report.layout}): {report.groups:,} groups, {report.images:,} images, "
        f"{report.pairs:,} pairs, {report.ties:,} of them ties"
    ]
    lines += [
        f"  {name}: {split['groups']:,} groups, {split['pairs']:,} pairs, {split['ties']:,} ties"
        for name, split in report.splits.items()
    ]
    if (wins := report.first_listed_wins) is not None:
        lines.append(f"  the image listed first wins {wins:.1%} of untied pairs")
    if report.generator_prior is not None:
        who = "an image's maker, or its place in its group, alone"
        lines.append(f"  {who} predicts {report.generator_prior:.1%} of them")
    counted = left_out(report)
    lines += [f"  {count:,} {what}" for what, count in counted.items() if count]
    lines += [f"  left out: {problem}" for problem in report.bad_records[:SHOWN]]
    lines += [f"  dropped: {count:,} {reason}" for reason, count in report.drop_reasons.items()]
    return "\n".join([*lines, *(f"  note: {note}" for note in report.notes)])


def main(values: flags.FlagValues) -> None:
    """Runs the command with flags that are parsed."""
    if values.inspect is not None:
        inspect(values.inspect, values.picture)
        return
    if missing := [f"--{name}" for name in ("source", "output") if values[name].value is None]:
        raise ValueError(f"{', '.join(missing)} must be given, or --inspect; see --help")
    report = prepare(
        values.source,
        values.input,
        values.output,
        downloads=values.downloads,
        image_root=values.image_root,
        split_fractions=parse_fractions(values.split_fractions),
        seed=values.seed,
        on_bad_example=values.on_bad_example,
        near_duplicates=values.near_duplicates,
        criterion=values.criterion,
        test_sets=values.test_sets,
    )
    commands.log(f"{summary(report)}\nprepared set: {values.output}")
    commands.log(f"report: {Path(values.output) / READABLE_REPORT}")


def inspect(folder: str, picture: str | None) -> None:
    """Shows the report of a prepared set, and draws some of its pairs."""
    from lrt_jax.reporting.contact_sheet import draw_pairs

    prepared = PreparedSet(folder)
    commands.log(page(BuildReport.from_json(prepared.report, prepared.beside(REPORT))))
    file = Path(picture) if picture else Path(folder) / "pairs.png"
    draw_pairs(prepared, file)
    commands.log(f"pairs: {file}")


if __name__ == "__main__":
    commands.run(main, define_flags)
