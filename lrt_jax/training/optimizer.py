"""AdamW or Muon with warm-up, a schedule and clipping, from Optax."""

import dataclasses
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import optax
from optax.contrib import MuonDimensionNumbers, muon

OPTIMIZERS = ("adamw", "muon")
SCHEDULES = ("constant", "cosine", "linear")
Matrices = Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]]
# Norm scales and biases are not decayed: they do not act as weights of a product.
_UNDECAYED = re.compile(r".*/(scale|bias)$")


@dataclasses.dataclass(frozen=True)
class OptimizerOptions:
    """AdamW (arXiv 1711.05101), or Muon (https://kellerjordan.github.io/posts/muon).

    Attributes:
      name: `adamw`; or `muon`, which makes the update of every matrix orthogonal, scaled to a root
        mean square of `learning_rate` (arXiv 2502.16982, 2.2), and leaves embeddings, biases and
        norms to AdamW with Nesterov momentum, undecayed. From fresh weights it learns several times
        as fast.
      learning_rate: at its peak.
      schedule: from the end of the warm-up to the last update: `constant`, or to zero.
      warmup_steps: updates over which the rate rises linearly from zero.
      weight_decay: decoupled.
      b1: decay of the first moment, AdamW's; Muon's own momentum is 0.95, its authors' value.
      b2: decay of the second moment, AdamW's.
      eps: added to the root of the second moment.
      clip_norm: largest global norm of a gradient; 0 does not clip.
    """

    name: str = "adamw"
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


def make_optimizer(
    options: OptimizerOptions, updates: int, matrices: Matrices = MappingProxyType({})
) -> optax.GradientTransformation:
    """For flat dicts of parameters by path, see `split_frozen`.

    Args:
      options: of the config.
      updates: of the whole run, for the schedule.
      matrices: which axes of a product's weights are its inputs and outputs, by path; for `muon`.
    """
    rate = learning_rate(options, updates)
    if options.name == "muon":
        optimizer = _muon(options, rate, matrices)
    else:
        optimizer = optax.adamw(
            rate,
            b1=options.b1,
            b2=options.b2,
            eps=options.eps,
            weight_decay=options.weight_decay,
            mask=_decayed,
        )
    if not options.clip_norm:
        return optimizer
    return optax.chain(optax.clip_by_global_norm(options.clip_norm), optimizer)


def _muon(
    options: OptimizerOptions, rate: optax.Schedule, matrices: Matrices
) -> optax.GradientTransformation:
    def axes(params: Mapping[str, Any]) -> dict[str, MuonDimensionNumbers | None]:
        return {
            path: MuonDimensionNumbers(*matrices[path]) if path in matrices else None
            for path in params
        }

    return muon(
        rate,
        eps=options.eps,
        adam_b1=options.b1,
        adam_b2=options.b2,
        weight_decay=options.weight_decay,
        consistent_rms=1.0,
        muon_weight_dimension_numbers=axes,
    )


def _decayed(params: Mapping[str, Any]) -> dict[str, bool]:
    return {path: not _UNDECAYED.match(path) for path in params}
