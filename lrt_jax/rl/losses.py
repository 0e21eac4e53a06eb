"""Policy-gradient losses of the GRPO family, as sums with explicit denominators.

One function, :func:`grpo_loss`, covers five losses that share everything but two choices: how the
importance ratio is limited, and what the sum over tokens is divided by. `rho` is the importance
ratio, `A` the advantage, `k` the KL estimate, `m` the mask:

=========  ==============================================  ====================================
loss type  policy term of a token                          divided by
=========  ==============================================  ====================================
grpo       -min(min(rho, delta) A, clip(rho) A)            own tokens, then `num_sequences`
bnpo       the same                                        tokens of this call
dr_grpo    the same                                        `num_sequences * max_completion_length`
dapo       the same                                        `num_items_in_batch`
cispo      -stop_gradient(min(rho, epsilon_high)) A log p  `num_items_in_batch`
=========  ==============================================  ====================================

Sources: GRPO arXiv 2402.03300, Dr.GRPO 2503.20783, DAPO (clip-higher) 2503.14476, GSPO (sequence
level) 2507.18071, CISPO 2506.13585, two-sided clipping 2505.07291. Values and gradients are held
against TRL's trainer in `docs/grpo_parity.md`.

**Microbatches.** When the denominators describe the whole batch, the loss of the batch is the sum
of the losses of its microbatches, whatever their cut, and so is its gradient. Nothing is averaged.
The exception is `bnpo`, which by definition divides by the tokens of its own call: its microbatches
are to be averaged by the caller, and the result depends on where the batch was cut.
"""

from typing import get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from lrt_jax.config import LossConfig
from lrt_jax.config.choices import ImportanceSamplingLevel, LossType

LOSS_TYPES = get_args(LossType)
IMPORTANCE_LEVELS = get_args(ImportanceSamplingLevel)

Scalar = Float[Array, ""]
Count = Float[Array, ""] | Int[Array, ""] | int | float
PerToken = Float[Array, "N T"]
PerSequence = Float[Array, " N"]
TokenMask = Bool[Array, "N T"]
Mask = Float[Array, "N T"] | Int[Array, "N T"] | TokenMask
Ratio = Float[Array, "N #T"]  # one per token, or one per sequence
Clipped = Bool[Array, "N #T"]  # of each ratio


@jax.named_scope("grpo_loss")
def grpo_loss(
    new_logps: PerToken,
    old_logps: PerToken | None,
    ref_logps: PerToken | None,
    advantages: PerSequence,
    mask: Mask,
    loss: LossConfig,
    *,
    max_completion_length: int,
    num_items_in_batch: Count | None = None,
    num_sequences: Count | None = None,
    sampler_ratio: PerToken | None = None,
) -> tuple[Scalar, dict[str, Scalar]]:
    """Loss to be minimised over `N` completions of at most `T` tokens, and its metrics as sums.

    Args:
      new_logps: [N, T] float32, natural log-probabilities of the sampled tokens under the policy
        that is trained. The only argument that receives a gradient.
      old_logps: [N, T] float32, the same under the policy that sampled; None takes the new ones,
        detached, which is exact when there is one update per rollout.
      ref_logps: [N, T] float32, the same under the frozen reference; may be None if its weight
        `loss.beta` is 0.
      advantages: [N] float32, one per completion.
      mask: [N, T], nonzero on tokens of the completion. What lies under a zero, even NaN, has no
        influence on loss or gradient.
      loss: which loss; its `num_iterations`, `microbatches` and `importance_sampling_cap` are for
        the caller. The KL term is estimated per token by k3 (http://joschu.net/blog/kl-approx.html).
      max_completion_length: the fixed length that dr_grpo divides by, in tokens.
      num_items_in_batch: tokens of the whole batch; None means the tokens of this call.
      num_sequences: completions of the whole batch; None means the `N` of this call.
      sampler_ratio: [N, T] float32, weight of each token's policy term, such as a truncated ratio
        of the trainer's and the sampler's probabilities; the KL term is not weighted by it.

    Returns:
      The loss (scalar float32), and a dict of scalar float32 sums over this call, which may be
      added over microbatches and devices and then given to :func:`mean_metrics`:
      `sequences` and `tokens` (with a nonzero mask), `ratios` (importance ratios: as many as
      tokens, or as sequences), `ratio`, `clip_low`, `clip_high` (sums over ratios; one counts as
      clipped where that stops its gradient, or for cispo where it is capped) and, given
      `ref_logps`, `kl` (sum over tokens).

    Raises:
      ValueError: unknown loss type or importance level, or `beta` without `ref_logps`.
    """
    _check_options(loss, ref_logps)
    valid = mask != 0
    new = _blank(new_logps, valid)
    old = jax.lax.stop_gradient(new if old_logps is None else _blank(old_logps, valid))
    ratio = _importance_ratio(new - old, valid, loss.importance_sampling_level)
    per_token, clipped = _policy_term(new, ratio, advantages[:, None], loss)
    if sampler_ratio is not None:
        per_token = per_token * jax.lax.stop_gradient(_blank(sampler_ratio, valid))
    kl = None
    if ref_logps is not None:
        kl = _k3(new, jax.lax.stop_gradient(_blank(ref_logps, valid)))
    if loss.beta:
        per_token = per_token + loss.beta * kl
    value = _reduce(
        jnp.where(valid, per_token, 0.0),
        valid,
        loss.type,
        sequences=mask.shape[0] if num_sequences is None else num_sequences,
        items=valid.sum() if num_items_in_batch is None else num_items_in_batch,
        length=max_completion_length,
    )
    return value, _metrics(ratio, clipped, kl, valid)


def mean_metrics(sums: dict[str, Scalar]) -> dict[str, Scalar]:
    """Means of the sums that :func:`grpo_loss` returned, once they are added up over a batch.

    Returns `ratio` (mean importance ratio), `clip_share_low` and `clip_share_high` (of ratios),
    `kl` (nats per token, only with a reference) and `completion_length` (tokens per sequence).
    """
    ratios = jnp.maximum(sums["ratios"], 1.0)
    means = {
        "ratio": sums["ratio"] / ratios,
        "clip_share_low": sums["clip_low"] / ratios,
        "clip_share_high": sums["clip_high"] / ratios,
        "completion_length": sums["tokens"] / jnp.maximum(sums["sequences"], 1.0),
    }
    if "kl" in sums:
        means["kl"] = sums["kl"] / jnp.maximum(sums["tokens"], 1.0)
    return means


def _check_options(loss: LossConfig, ref_logps: PerToken | None) -> None:
    if loss.type not in LOSS_TYPES:
        raise ValueError(f"loss type {loss.type!r} is not one of {', '.join(LOSS_TYPES)}")
    if loss.importance_sampling_level not in IMPORTANCE_LEVELS:
        raise ValueError(
            f"importance_sampling_level {loss.importance_sampling_level!r} is not one of "
            f"{', '.join(IMPORTANCE_LEVELS)}"
        )
    if loss.beta and ref_logps is None:
        raise ValueError(f"beta={loss.beta} needs ref_logps, the reference's log-probabilities")


def _blank(values: PerToken, valid: TokenMask) -> PerToken:
    """Zeros where masked: an infinity there would become NaN in the backward pass."""
    return jnp.where(valid, values, 0.0)


def _at_most(values: Ratio, bound: float) -> Ratio:
    """`minimum(values, bound)` with derivative 1, not 1/2, where both are equal.

    It matters on policy: every ratio is exactly 1, and a bound may be 1 too.
    """
    return jnp.where(values > bound, bound, values)


def _clip(values: Ratio, low: float, high: float) -> Ratio:
    return jnp.where(values < low, low, _at_most(values, high))


def _importance_ratio(log_ratio: PerToken, valid: TokenMask, level: str) -> Ratio:
    """[N, T] ratios of tokens, or [N, 1] geometric means over the tokens of a sequence."""
    if level == "token":
        return jnp.exp(log_ratio)
    tokens = jnp.maximum(valid.sum(axis=1, keepdims=True), 1)
    return jnp.exp(log_ratio.sum(axis=1, keepdims=True) / tokens)


def _policy_term(
    new: PerToken, ratio: Ratio, advantage: Float[Array, "N 1"], loss: LossConfig
) -> tuple[Ratio, tuple[Clipped, Clipped]]:
    """The loss of each token but for KL, and where its ratio is clipped from below and above."""
    high = loss.epsilon if loss.epsilon_high is None else loss.epsilon_high
    if loss.type == "cispo":
        term = -jax.lax.stop_gradient(_at_most(ratio, high)) * advantage * new
        return term, _capped(ratio, advantage, high)
    term = _clipped_policy_term(ratio, advantage, loss.epsilon, high, loss.delta)
    return term, _clipped(ratio, advantage, loss.epsilon, high)


def _clipped_policy_term(ratio: Ratio, advantage, epsilon, epsilon_high, delta) -> Ratio:
    """PPO's pessimistic surrogate: the smaller of the free and the clipped objective, negated."""
    limited = _clip(ratio, 1.0 - epsilon, 1.0 + epsilon_high)
    free = ratio if delta is None else _at_most(ratio, delta)
    return -jnp.minimum(free * advantage, limited * advantage)


def _k3(new: PerToken, ref: PerToken) -> PerToken:
    """exp(d) - d - 1 with d = log ref - log new: nonnegative, unbiased for KL(new || ref)."""
    difference = ref - new
    # expm1 keeps the digits that exp(d) - 1 loses when policy and reference almost agree.
    return jnp.expm1(difference) - difference


def _clipped(ratio: Ratio, advantage, epsilon, epsilon_high) -> tuple[Clipped, Clipped]:
    """Where the surrogate is flat: (ratio too low and A < 0, ratio too high and A > 0)."""
    low = (ratio < 1.0 - epsilon) & (advantage < 0)
    return low, (ratio > 1.0 + epsilon_high) & (advantage > 0)


def _capped(ratio: Ratio, advantage, cap) -> tuple[Clipped, Clipped]:
    """cispo caps from above only, for either sign of the advantage, and keeps the gradient."""
    return jnp.zeros_like(ratio, dtype=bool), (ratio > cap) & (advantage != 0)


def _reduce(per_token: PerToken, valid, loss_type: LossType, *, sequences, items, length) -> Scalar:
    """Sum of `per_token` (zero under the mask) over the denominator of the loss type."""
    if loss_type == "grpo":
        return (per_token.sum(axis=1) / jnp.maximum(valid.sum(axis=1), 1)).sum() / sequences
    denominator = {"bnpo": valid.sum(), "dr_grpo": sequences * length}.get(loss_type, items)
    return per_token.sum() / jnp.maximum(denominator, 1)


def _metrics(ratio: Ratio, clipped, kl: PerToken | None, valid) -> dict[str, Scalar]:
    """Sums of this call; nothing in them carries a gradient."""
    started = valid.any(axis=1, keepdims=True)
    counted = valid if ratio.shape == valid.shape else started  # one ratio per token, or sequence
    sums = {
        "sequences": _sum(1.0, started),
        "tokens": _sum(1.0, valid),
        "ratios": _sum(1.0, counted),
        "ratio": _sum(ratio, counted),
        "clip_low": _sum(clipped[0], counted),
        "clip_high": _sum(clipped[1], counted),
    }
    if kl is not None:
        sums["kl"] = _sum(kl, valid)
    return jax.tree.map(jax.lax.stop_gradient, sums)


def _sum(values, where) -> Scalar:
    return jnp.where(where, values, 0.0).sum()
