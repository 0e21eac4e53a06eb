"""From the rewards of a group of completions to how much better than its group each one was.

Written with array methods alone, so they take and return NumPy arrays on the host and JAX arrays
inside a jitted function.
"""

from typing import get_args

import jax
import numpy as np
from jaxtyping import Bool, Float

from lrt_jax.config.choices import AdvantageScale

ADVANTAGE_SCALES = get_args(AdvantageScale)
EPSILON = 1e-4  # added to the standard deviation, in units of reward

Array = jax.Array | np.ndarray
PerMember = Float[Array, "B G"]
PerGroup = Bool[Array, " B"]


def group_advantages(rewards: PerMember, *, scale: AdvantageScale) -> PerMember:
    """Rewards relative to their group's mean, in the dtype of `rewards`.

    `scale="group"` divides by the group's standard deviation, unbiased, plus 1e-4 (GRPO, arXiv
    2402.03300); `scale="none"` does not (Dr.GRPO, arXiv 2503.20783). A group without spread gets
    exact zeros.

    Args:
      rewards: [B, G], a row per prompt.
      scale: one of `ADVANTAGE_SCALES`.

    Raises:
      ValueError: unknown scale, or a group of one, which has no standard deviation.
    """
    if scale not in ADVANTAGE_SCALES:
        raise ValueError(f"scale {scale!r} is not one of {', '.join(ADVANTAGE_SCALES)}")
    if scale == "group" and rewards.shape[-1] < 2:
        raise ValueError(
            "a group of one completion has no standard deviation: take a group_size of at least 2, "
            'or scale="none"'
        )
    # Relative to the first member, equal rewards are exact zeros. Taking the mean right away would
    # leave a rounding error, which the division by 1e-4 then turns into a visible advantage.
    relative = rewards - rewards[..., :1]
    centred = relative - relative.mean(axis=-1, keepdims=True)
    if scale == "none":
        return centred
    return centred / (relative.std(axis=-1, ddof=1, keepdims=True) + EPSILON)


def zero_spread(rewards: PerMember) -> PerGroup:
    """[B] bool: groups [B, G] whose members all have the same reward, and so teach nothing."""
    return rewards.max(axis=-1) == rewards.min(axis=-1)
