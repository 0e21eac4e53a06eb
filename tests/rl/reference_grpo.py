"""The GRPO losses once more: NumPy, float64, one token at a time, derivatives by hand."""

import numpy as np


def policy_term(ratio, advantage, new, *, loss_type, low, high, delta):
    """(value, d value / d ratio, d value / d new) of one policy term, before any division."""
    if loss_type == "cispo":
        weight = min(ratio, high)
        return -weight * advantage * new, 0.0, -weight * advantage
    bound = np.inf if delta is None else delta
    free, free_slope = min(ratio, bound), float(ratio <= bound)
    inside = 1 - low <= ratio <= 1 + high
    limited = ratio if inside else (1 - low if ratio < 1 else 1 + high)
    if free * advantage == limited * advantage:
        slope = (free_slope + inside) / 2
    else:
        slope = free_slope if free * advantage < limited * advantage else float(inside)
    return -min(free * advantage, limited * advantage), -advantage * slope, 0.0


def reference_loss(
    new,
    old,
    ref,
    advantages,
    mask,
    *,
    loss_type,
    beta,
    epsilon,
    epsilon_high=None,
    delta=None,
    importance_sampling_level="token",
    max_completion_length,
    num_items_in_batch=None,
    num_sequences=None,
    sampler_ratio=None,
):
    """(loss, its gradient [N, T] with respect to `new`); arguments as those of `grpo_loss`."""
    high = epsilon if epsilon_high is None else epsilon_high
    rows, width = new.shape
    sequences = rows if num_sequences is None else num_sequences
    items = max(int(mask.sum()) if num_items_in_batch is None else num_items_in_batch, 1)
    loss, gradient = 0.0, np.zeros((rows, width))
    for n in range(rows):
        tokens = [t for t in range(width) if mask[n, t]]
        if not tokens:
            continue
        divisor = {
            "grpo": len(tokens) * sequences,
            "bnpo": int(mask.sum()),
            "dr_grpo": sequences * max_completion_length,
            "dapo": items,
            "cispo": items,
        }[loss_type]
        log_ratio = {t: 0.0 if old is None else float(new[n, t]) - float(old[n, t]) for t in tokens}
        mean = sum(log_ratio.values()) / len(tokens)
        for t in tokens:
            sequence = importance_sampling_level == "sequence"
            ratio = np.exp(mean if sequence else log_ratio[t])
            value, by_ratio, by_new = policy_term(
                ratio,
                float(advantages[n]),
                float(new[n, t]),
                loss_type=loss_type,
                low=epsilon,
                high=high,
                delta=delta,
            )
            weight = (1.0 if sampler_ratio is None else float(sampler_ratio[n, t])) / divisor
            loss += value * weight
            gradient[n, t] += by_new * weight
            for s in tokens if sequence else [t]:
                share = 1 / len(tokens) if sequence else 1.0
                gradient[n, s] += by_ratio * ratio * share * weight
            if beta:
                difference = float(ref[n, t]) - float(new[n, t])
                loss += beta * (np.exp(difference) - difference - 1) / divisor
                gradient[n, t] += beta * (1 - np.exp(difference)) / divisor
    return loss, gradient
