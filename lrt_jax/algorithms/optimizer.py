"""AdamW or Muon with warm-up, a schedule and clipping, from Optax."""

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import optax
from optax.contrib import MuonDimensionNumbers, muon

from lrt_jax.config import OptimizerOptions

Matrices = Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]]
# Norm scales and biases are not decayed: they do not act as weights of a product.
_UNDECAYED = re.compile(r".*/(scale|bias)$")


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
    shared = {name: getattr(options, name) for name in ("eps", "mu_dtype", "weight_decay")}
    if options.name == "muon":
        optimizer = muon(
            rate,
            adam_b1=options.b1,
            adam_b2=options.b2,
            consistent_rms=1.0,
            muon_weight_dimension_numbers=lambda params: _axes(params, matrices),
            **shared,
        )
    else:
        optimizer = optax.adamw(rate, b1=options.b1, b2=options.b2, mask=_decayed, **shared)
    if not options.clip_norm:
        return optimizer
    return optax.chain(optax.clip_by_global_norm(options.clip_norm), optimizer)


def _axes(params: Mapping[str, Any], matrices: Matrices) -> dict[str, MuonDimensionNumbers | None]:
    known = {path: MuonDimensionNumbers(*axes) for path, axes in matrices.items()}
    return {path: known.get(path) for path in params}


def _decayed(params: Mapping[str, Any]) -> dict[str, bool]:
    return {path: not _UNDECAYED.match(path) for path in params}
