"""The closing table of a run."""

from collections.abc import Iterator, Mapping

FEW_PAIRS = 30  # of an evaluation; of fewer a line says that they tell little
MARK = "*"  # of a change that is not the difference of its columns
ROWS = (
    ("accuracy, sampled", "accuracy"),
    ("accuracy, greedy", "accuracy_greedy"),
    ("accuracy as reward model", "accuracy_reward_model"),
    ("listener's confidence", "listener_confidence"),
    ("contradiction, argmax", "contradiction_rate"),
    ("contradiction, greedy", "contradiction_rate_greedy"),
    ("contradiction, confident", "contradiction_rate_confident"),
    ("contradiction, soft", "contradiction_soft"),
    ("trace truth, sampled", "trace_truth"),
    ("trace truth, greedy", "trace_truth_greedy"),
    ("objects described", "trace_objects"),
    ("first position chosen", "first_position_rate"),
    ("unparsed predictions", "unparsed"),
)


def results_table(results: Mapping) -> str:
    """`results.json` for people: before, after, and what changed on the same pairs."""
    lines = [f"{'':24}{'before':>22}{'after':>22}{'change':>24}"]
    for title, before, after, change in result_rows(results):
        mark = "" if change.endswith(MARK) else " "  # so that the figures stand below one another
        lines.append(f"{title:24}{before:>22}{after:>22}{change + mark:>25}".rstrip())
    lines.append(
        f"{results['before']['pairs']} pairs of split {results['split']!r}, both orders; 95 % "
        "intervals by caption; changes are paired"
    )
    if paired := paired_judgements(results):
        lines.append(
            f"{MARK} over the {paired} predictions with a value both times; the columns are over "
            "all of theirs"
        )
    return "\n".join(lines)


def result_rows(results: Mapping) -> Iterator[tuple[str, str, str, str]]:
    """Title, before, after and change of every figure that is known."""
    before, after = results["before"], results["after"]
    for title, field in ROWS:
        if before[field] is not None or after[field] is not None:
            change = _change(after["gains"].get(field, {}))
            yield title, figure(before, field), figure(after, field), change


def paired_judgements(results: Mapping) -> str:
    """How many predictions the marked changes are over, such as 1,003 to 1,021; empty without any.

    Those changes leave out what has a value only before or only after, as where one answer could
    not be read, and so they are not the difference of the columns.
    """
    gains = results["after"]["gains"]
    counts = [gains[field]["paired"] for _, field in ROWS if _is_marked(gains.get(field, {}))]
    if not counts:
        return ""
    return " to ".join(f"{count:,}" for count in sorted({min(counts), max(counts)}))


def figure(part: Mapping, field: str) -> str:
    """A figure of an evaluation, with its interval where it has one."""
    value = part[field]
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
