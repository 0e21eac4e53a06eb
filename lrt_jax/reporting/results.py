"""The closing table of a run."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

from lrt_jax.evaluation.predictions import LATER_METRICS

FEW_PAIRS = 30  # of an evaluation; of fewer a line says that they tell little
MARK = "*"  # of a change that is not the difference of its columns
# Of the main split. Where no trace is named, it is of the sampled ones.
ROWS = (
    ("accuracy, sampled", "accuracy"),
    ("accuracy, greedy", "accuracy_greedy"),
    ("accuracy as reward model", "accuracy_reward_model"),
    ("listener's confidence", "listener_confidence"),
    ("listener's accuracy, no trace", "listener_accuracy_alone"),
    ("listener's accuracy, sampled", "listener_accuracy"),
    ("listener's accuracy, greedy", "listener_accuracy_greedy"),
    ("contradiction, argmax", "contradiction_rate"),
    ("contradiction, greedy", "contradiction_rate_greedy"),
    ("contradiction, confident", "contradiction_rate_confident"),
    ("contradiction, soft", "contradiction_soft"),
    ("held-out accuracy, no trace", "held_out_accuracy_alone"),
    ("held-out accuracy, sampled", "held_out_accuracy"),
    ("held-out accuracy, greedy", "held_out_accuracy_greedy"),
    ("held-out contradiction, argmax", "held_out_contradiction_rate"),
    ("held-out contradiction, greedy", "held_out_contradiction_rate_greedy"),
    ("held-out contradiction, soft", "held_out_contradiction_soft"),
    ("held-out soft, greedy", "held_out_contradiction_soft_greedy"),
    ("trace truth, sampled", "trace_truth"),
    ("trace truth, greedy", "trace_truth_greedy"),
    ("objects described", "trace_objects"),
    ("first position chosen", "first_position_rate"),
    ("unparsed predictions", "unparsed_share"),
)
OF_OTHERS = (  # fields of the further splits' rows
    *("accuracy", "accuracy_greedy", "accuracy_reward_model"),
    *("trace_truth", "trace_truth_greedy", "unparsed_share"),
)
OTHER_ROWS = tuple(row for row in ROWS if row[1] in OF_OTHERS)
# Fields of rows that results of earlier versions do not have.
LATER = {field for _, field in ROWS if field.removesuffix("_greedy") in LATER_METRICS}
Row = tuple[str, str, str, str]  # title, before, after and change


@dataclasses.dataclass(frozen=True)
class Section:
    """What the table says of a split: its name, how many pairs of it there are, and its rows."""

    split: str
    pairs: int
    rows: Sequence[Row]


def results_table(results: Mapping) -> str:
    """`results.json` for people: before, after, and what changed on the same pairs."""
    lines = [f"{'':31}{'before':>21}{'after':>22}{'change':>24}"]
    for section in result_sections(results):
        lines += [""] * (len(lines) > 1)
        lines.append(f"{section.pairs:,} pairs of split {section.split!r}")
        for title, before, after, change in section.rows:
            mark = "" if change.endswith(MARK) else " "  # so that the figures stand in columns
            lines.append(f"{title:31}{before:>21}{after:>22}{change + mark:>25}".rstrip())
    lines += ["", "both orders of every pair; 95 % intervals by caption; changes are paired"]
    if paired := paired_judgements(results):
        lines.append(
            f"{MARK} over the {paired} predictions with a value both times; the columns are over "
            "all of theirs"
        )
    return "\n".join(lines)


def result_sections(results: Mapping) -> Iterator[Section]:
    """The rows of every split, the main one first."""
    for split, compared, rows in compared_splits(results):
        found = list(result_rows(compared, rows))
        yield Section(split, compared["before"]["pairs"], found)


def compared_splits(
    results: Mapping,
) -> Iterator[tuple[str, Mapping, Sequence[tuple[str, str]]]]:
    """Name of every split, what holds its `before` and `after`, and titles and fields of rows."""
    yield results["split"], results, ROWS
    for split, compared in results.get("splits", {}).items():  # not in older files
        yield split, compared, OTHER_ROWS


def result_rows(compared: Mapping, rows: Sequence[tuple[str, str]] = ROWS) -> Iterator[Row]:
    """Title, before, after and change of every figure that is known.

    Args:
      compared: `results.json`, or what it says of a further split.
      rows: title and field of each.
    """
    before, after = compared["before"], compared["after"]
    for title, field in rows:
        if _value(before, field) is not None or _value(after, field) is not None:
            change = _change(after["gains"].get(field, {}))
            yield title, figure(before, field), figure(after, field), change


def _value(part: Mapping, field: str) -> float | None:
    return part.get(field) if field in LATER else part[field]


def paired_judgements(results: Mapping) -> str:
    """How many predictions the marked changes are over, such as 1,003 to 1,021; empty without any.

    Those changes leave out what has a value only before or only after, as where one answer could
    not be read, and so they are not the difference of the columns.
    """
    gains = [
        compared["after"]["gains"].get(field, {})
        for _, compared, rows in compared_splits(results)
        for _, field in rows
    ]
    counts = [gain["paired"] for gain in gains if _is_marked(gain)]
    if not counts:
        return ""
    return " to ".join(f"{count:,}" for count in sorted({min(counts), max(counts)}))


def figure(part: Mapping, field: str) -> str:
    """A figure of an evaluation, with its interval where it has one."""
    value = _value(part, field)
    if value is None or isinstance(value, int):
        return "-" if value is None else str(value)
    return _short(value) + _interval(part.get(f"{field}_ci95"), _short)


def _change(gain: Mapping) -> str:
    value = gain.get("gain")
    if value is None:
        return ""
    return _signed(value) + _interval(gain["ci95"], _signed) + MARK * _is_marked(gain)


def _is_marked(gain: Mapping) -> bool:
    return gain.get("gain") is not None and gain.get("unpaired", 0) > 0


def _interval(bounds, form) -> str:
    return f" [{form(bounds[0])}, {form(bounds[1])}]" if bounds else ""


def _short(value: float) -> str:
    return f"{value:.3f}".removeprefix("0")


def _signed(value: float) -> str:
    text = f"{value:+.3f}"
    return text[0] + text[1:].removeprefix("0")
