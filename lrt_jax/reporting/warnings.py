"""What in a step's metrics is worth a warning, now and then and not at every step."""

import dataclasses
import logging
from collections.abc import Mapping

logger = logging.getLogger(__name__)

QUIET_STEPS = 50  # between two warnings of one kind


@dataclasses.dataclass(frozen=True)
class Limit:
    """A metric that should stay below a bound.

    Attributes:
      metric: its name.
      bound: from here on a warning is logged.
      text: of the warning, with the metric's `value`.
    """

    metric: str
    bound: float
    text: str


LIMITS = (
    Limit(
        "reward/total/zero_spread",
        0.5,
        "{value:.0%} of the groups are rewarded alike and teach nothing; a higher temperature or "
        "group_size spreads them",
    ),
    Limit(
        "completions/truncated",
        0.2,
        "{value:.0%} of the completions were cut at max_completion_length and have no answer",
    ),
    Limit(
        "kl",
        1.0,
        "the policy is {value:.2f} nats a token from where it started; a lower "
        "optimizer.learning_rate or a higher loss.beta holds it",
    ),
    Limit(
        "sampler_drift_mean",
        0.05,
        "sampler and trainer differ by {value:.3f} nats a token; loss.importance_sampling_cap=2 "
        "corrects for it, sampling.weights=full and model.dtype=float32 remove it",
    ),
)


class Warnings:
    """Warns of what passes a limit: at once, and then again only after `QUIET_STEPS`."""

    def __init__(self):
        self._warned: dict[str, int] = {}  # step of the last warning, by metric
        self._kept_back: dict[str, int] = {}

    def check(self, step: int, metrics: Mapping[str, float]) -> None:
        """Warns of one step's metrics."""
        for limit in LIMITS:
            value = metrics.get(limit.metric, 0.0)
            if value < limit.bound:
                continue
            if step - self._warned.get(limit.metric, -QUIET_STEPS) < QUIET_STEPS:
                self._kept_back[limit.metric] = self._kept_back.get(limit.metric, 0) + 1
                continue
            again = self._kept_back.pop(limit.metric, 0)
            since = f" (and in {again} steps before it)" if again else ""
            logger.warning(f"step {step}: {limit.text.format(value=value)}{since}")
            self._warned[limit.metric] = step
