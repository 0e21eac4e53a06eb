"""AdamW with warm-up, a schedule and clipping, from Optax."""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import optax

SCHEDULES = ("constant", "cosine", "linear")
# Norm scales and biases are not decayed: they do not act as weights of a product.
_UNDECAYED = re.compile(r".*/(scale|bias)$")


@dataclasses.dataclass(frozen=True)
class OptimizerOptions:
    """AdamW (arXiv 1711.05101).

    Attributes:
      learning_rate: at its peak.
      schedule: from the end of the warm-up to the last update: `constant`, or to zero.
      warmup_steps: updates over which the rate rises linearly from zero.
      weight_decay: decoupled.
      b1: decay of the first moment.
      b2: decay of the second moment.
      eps: added to the root of the second moment.
      clip_norm: largest global norm of a gradient; 0 does not clip.
    """

    learning_rate: float = 1e-6
    schedule: str = "constant"
    warmup_steps: int = 0
    weight_decay: float = 0.0
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8
    clip_norm: float = 1.0


def learning_rate(options: OptimizerOptions, updates: int) -> optax.Schedule:
    """Rate at each of `updates` updates."""
    peak, warmup = options.learning_rate, options.warmup_steps
    rest = max(updates - warmup, 1)
    after = {
        "constant": optax.constant_schedule(peak),
        "cosine": optax.cosine_decay_schedule(peak, rest),
        "linear": optax.linear_schedule(peak, 0.0, rest),
    }[options.schedule]
    if not warmup:
        return after
    # Starts at the first fraction, not at zero: an update at rate zero is a rollout wasted.
    rising = optax.linear_schedule(peak / warmup, peak, max(warmup - 1, 1))
    return optax.join_schedules([rising, after], [warmup])


def make_optimizer(options: OptimizerOptions, updates: int) -> optax.GradientTransformation:
    """For flat dicts of parameters by path, see `split_frozen`."""
    adamw = optax.adamw(
        learning_rate(options, updates),
        b1=options.b1,
        b2=options.b2,
        eps=options.eps,
        weight_decay=options.weight_decay,
        mask=_decayed,
    )
    if not options.clip_norm:
        return adamw
    return optax.chain(optax.clip_by_global_norm(options.clip_norm), adamw)


def _decayed(params: Mapping[str, Any]) -> dict[str, bool]:
    return {path: not _UNDECAYED.match(path) for path in params}
