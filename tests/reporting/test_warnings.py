"""Warnings come when a limit is passed, and not at every step."""

from lrt_jax.reporting.warnings import LIMITS, QUIET_STEPS, Warnings
from tests.logs import logged


def test_a_limit_that_is_passed_is_told_now_and_then():
    warnings = Warnings()
    with logged() as lines:
        for step in range(1, 2 * QUIET_STEPS + 1):
            warnings.check(step, {"completions/truncated": 0.25, "kl": 0.1})
    assert len(lines) == 2
    assert lines[0].startswith("warning: step 1: 25% of the completions were cut")
    assert lines[1].startswith(f"warning: step {1 + QUIET_STEPS}: 25%")
    assert lines[1].endswith(f"(and in {QUIET_STEPS - 1} steps before it)")


def test_every_limit_has_a_word():
    with logged() as lines:
        Warnings().check(7, {limit.metric: limit.bound for limit in LIMITS})
    assert len(lines) == len(LIMITS) and all("step 7: " in line for line in lines)
    with logged() as lines:
        Warnings().check(7, {limit.metric: limit.bound * 0.99 for limit in LIMITS})
    assert not lines
