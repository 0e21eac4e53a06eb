"""The closing table of a run."""

from collections.abc import Iterator, Mapping

FEW_PAIRS = 30  # of an evaluation; of fewer it is told that they say little
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
    ("unparsed judgements", "unparsed"),
)


def results_table(results: Mapping) -> str:
    """`results.json` for people: before, after, and what changed on the same pairs."""
    lines = [f"{'':24}{'before':>22}{'after':>22}{'change':>24}"]
    for title, before, after, change in result_rows(results):
        lines.append(f"{title:24}{before:>22}{after:>22}{change:>24}".rstrip())
    lines.append(
        f"{results['before']['pairs']} pairs of split {results['split']!r}, both orders; 95 % "
        "intervals by caption; changes are paired"
    )
    return "\n".join(lines)


def result_rows(results: Mapping) -> Iterator[tuple[str, str, str, str]]:
    """Title, before, after and change of every figure that is known."""
    before, after = results["before"], results["after"]
    for title, field in ROWS:
        if before[field] is not None or after[field] is not None:
            change = _change(after["gains"].get(field, {}))
            yield title, figure(before, field), figure(after, field), change


def figure(part: Mapping, field: str) -> str:
    """A figure of an evaluation, with its interval where it has one."""
    value = part[field]
    if value is None or isinstance(value, int):
        return "-" if value is None else str(value)
    return _short(value) + _interval(part.get(f"{field}_ci95"), _short)


def _change(gain: Mapping) -> str:
    value = gain.get("gain")
    return "" if value is None else _signed(value) + _interval(gain["ci95"], _signed)


def _interval(bounds, form) -> str:
    return f" [{form(bounds[0])}, {form(bounds[1])}]" if bounds else ""


def _short(value: float) -> str:
    return f"{value:.3f}".removeprefix("0")


def _signed(value: float) -> str:
    text = f"{value:+.3f}"
    return text[0] + text[1:].removeprefix("0")
