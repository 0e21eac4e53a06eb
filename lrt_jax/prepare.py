"""Prepares a downloaded preference data set for training and evaluation.

Decodes every image once, stores equal images once, adds up votes for the same pair, splits by
caption, and writes two tables and build_report.json. The output appears whole or not at all; the
same command again finds it and does nothing.

  python -m lrt_jax.prepare --source=hpdv2 --input=HPDv2 --output=prepared/hpdv2
"""

import sys

from absl import flags

from lrt_jax import commands
from lrt_jax.data.build import BuildReport, prepare
from lrt_jax.data.sources import SOURCES

SHOWN = 5  # bad records, of those that build_report.json lists


def define_flags(values: flags.FlagValues) -> None:
    """Defines this command's flags."""
    flags.DEFINE_enum(
        "source", None, list(SOURCES), "Which data set the input is.", flag_values=values
    )
    flags.DEFINE_string(
        "input", None, "Folder of the downloaded data set, archives unpacked.", flag_values=values
    )
    flags.DEFINE_string("output", None, "Folder to make, a prepared set.", flag_values=values)
    flags.DEFINE_string(
        "split_fractions",
        None,
        "Share of the captions by split, for example train=0.9,validation=0.05,test=0.05. "
        "Unset: the source's own splits, or these where it has none.",
        flag_values=values,
    )
    flags.DEFINE_integer("seed", 0, "Seed of the split.", flag_values=values)
    flags.DEFINE_enum(
        "on_bad_example",
        "error",
        ["error", "skip"],
        "What to do about images that cannot be used: stop and name them, or leave them out, with "
        "their pairs, and count them.",
        flag_values=values,
    )
    flags.mark_flags_as_required(["source", "input", "output"], flag_values=values)


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
    if report.first_listed_wins is not None:
        lines.append(
            f"  the image listed first wins {report.first_listed_wins:.1%} of untied pairs"
        )
    if report.generator_prior is not None:
        lines.append(
            f"  an image's place in its group alone predicts {report.generator_prior:.1%} of them"
        )
    counted = {
        "bad records left out with their groups": len(report.bad_records),
        "image files dropped": report.dropped,
        "pairs dropped with them": report.dropped_pairs,
        "image files with the bytes of another": report.duplicate_images,
        "pairs of an image with itself left out": report.self_pairs,
        "judgements added to pairs already seen": report.merged_pairs,
        "pairs with contradictory judgements": report.conflicts,
        "images under captions of several splits": report.images_in_several_splits,
    }
    lines += [f"  {count:,} {what}" for what, count in counted.items() if count]
    lines += [f"  left out: {problem}" for problem in report.bad_records[:SHOWN]]
    lines += [f"  dropped: {count:,} {reason}" for reason, count in report.drop_reasons.items()]
    return "\n".join([*lines, *(f"  note: {note}" for note in report.notes)])


def main(values: flags.FlagValues) -> None:
    """Runs the command with flags that are parsed."""
    report = prepare(
        values.source,
        values.input,
        values.output,
        split_fractions=parse_fractions(values.split_fractions),
        seed=values.seed,
        on_bad_example=values.on_bad_example,
        say=commands.say,
    )
    commands.say(f"{summary(report)}\nprepared set: {values.output}")


def run() -> None:
    """Entry point."""
    commands.run(main, define_flags, sys.modules[__name__])


if __name__ == "__main__":
    run()
