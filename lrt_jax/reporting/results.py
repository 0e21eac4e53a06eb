"""The closing table of a run."""

from collections.abc import Mapping

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
    before, after = results["before"], results["after"]
    lines = [f"{'':24}{'before':>22}{'after':>22}{'change':>24}"]
    for title, field in ROWS:
        if before[field] is not None or after[field] is not None:
            cells = [_value(part, field) for part in (before, after)]
            change = _change(after["gains"].get(field, {}))
            lines.append(f"{title:24}{cells[0]:>22}{cells[1]:>22}{change:>24}".rstrip())
    lines.append(
        f"{before['pairs']} pairs of split {results['split']!r}, both orders; 95 % intervals "
        "by caption; changes are paired"
    )
    return "\n".join(lines)


def _value(part: Mapping, field: str) -> str:
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
    return f"{value:+.3f}".replace("0.", ".", 1)
