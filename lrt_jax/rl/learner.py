"""What the policy learns from: the gradient of the loss over groups, in microbatches."""

import re
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
from flax import struct, traverse_util
from jaxtyping import Array, Bool, Float, Int, PyTree

from lrt_jax.config import LossConfig
from lrt_jax.models import BoundModel, Images, Prompt, VisionLanguageModel
from lrt_jax.models.api import Features
from lrt_jax.rl.logprobs import token_logps
from lrt_jax.rl.losses import grpo_loss
from lrt_jax.rl.microbatches import join, split


@struct.dataclass
class Experience:
    """`B` groups of `G` completions and how good each was: all that an update needs."""

    prompt: Prompt
    images: Images | None  # None where the tower is frozen, and `features` are given
    features: Features | None
    tokens: Int[Array, "B G t"]
    length: Int[Array, "B G"]  # tokens of each completion
    sampler_logps: Float[Array, "B G t"]  # float32, nats
    reference_logps: Float[Array, "B G t"] | None  # None if beta is 0
    old_logps: Float[Array, "B G t"]  # of the policy that sampled; unused in the first update
    advantages: Float[Array, "B G"]

    @property
    def mask(self) -> Bool[Array, "B G t"]:
        return jnp.arange(self.tokens.shape[-1]) < self.length[..., None]


def split_frozen(params: Mapping, freeze: Sequence[str]) -> tuple[dict, dict]:
    """Flat dicts of trainable and of frozen parameters.

    Args:
      params: nested parameters.
      freeze: regular expressions, matched at the start of `/`-joined paths.

    Raises:
      ValueError: a pattern matches nothing, or nothing is left to train.
    """
    flat = traverse_util.flatten_dict(params, sep="/")
    for pattern in freeze:
        if not any(re.match(pattern, path) for path in flat):
            raise ValueError(f"freeze pattern {pattern!r} matches no parameter; they are {[*flat]}")
    frozen = {path for path in flat if any(re.match(pattern, path) for pattern in freeze)}
    if len(frozen) == len(flat):
        raise ValueError(f"freeze={list(freeze)} leaves nothing to train")
    trainable = {path: leaf for path, leaf in flat.items() if path not in frozen}
    return trainable, {path: flat[path] for path in frozen}


def join_frozen(trainable: Mapping, frozen: Mapping) -> dict:
    """Inverse of `split_frozen`."""
    return traverse_util.unflatten_dict({**trainable, **frozen}, sep="/")


def policy_gradient(
    model: VisionLanguageModel,
    trainable: Mapping,
    frozen: Mapping,
    experience: Experience,
    on_policy: Bool[Array, ""],
    loss: LossConfig,
    temperature: float = 1.0,
) -> tuple[dict, dict[str, Array], Float[Array, "B G t"]]:
    """Gradient of the loss of all groups.

    The denominators are those of the whole batch, so that neither the number of microbatches nor
    of devices changes the gradient; `bnpo` alone divides by the tokens of each microbatch and
    averages over them.

    Args:
      model: the policy.
      trainable: flat parameters to differentiate.
      frozen: flat parameters that stay.
      experience: of the whole batch.
      on_policy: whether this is the first update since the rollout; the old log-probabilities are
        then the new ones, detached.
      loss: which loss, and into how many microbatches its pass is cut; static under `jit`, as is
        the temperature.
      temperature: of the distribution that was sampled.

    Returns:
      The gradient, like `trainable`; metrics as sums (see `grpo_loss`); and the policy's
      log-probabilities before the update.
    """
    totals = {
        "num_sequences": experience.advantages.size,
        "num_items_in_batch": experience.mask.sum(),
    }

    def objective(trainable: Mapping, microbatch: Experience):
        params = join_frozen(trainable, frozen)
        features = microbatch.features
        if features is None:
            features = BoundModel(model, params).encode_images(microbatch.images)
        hidden = BoundModel(model, params).score_group(
            microbatch.prompt, features, microbatch.tokens
        )
        logps, entropy = token_logps(
            model, params, hidden, microbatch.tokens, temperature=temperature
        )
        old_logps = jnp.where(on_policy, jax.lax.stop_gradient(logps), microbatch.old_logps)
        value, sums = grpo_loss(
            _flat(logps),
            _flat(old_logps),
            None if microbatch.reference_logps is None else _flat(microbatch.reference_logps),
            microbatch.advantages.reshape(-1),
            _flat(microbatch.mask),
            loss,
            max_completion_length=microbatch.mask.shape[-1],
            sampler_ratio=_sampler_ratio(old_logps, microbatch, loss.importance_sampling_cap),
            **totals,
        )
        if loss.type == "bnpo":  # an average over microbatches, not a sum
            value = value / loss.microbatches
        sums |= {"loss": value, "entropy": jnp.sum(entropy * microbatch.mask)}
        return value, jax.lax.stop_gradient((sums, logps))

    def contribution(microbatch: Experience):
        grads, (sums, logps) = jax.grad(objective, has_aux=True)(trainable, microbatch)
        return (grads, sums), logps

    (grads, sums), logps = accumulate(contribution, experience, loss.microbatches)
    return grads, sums, logps


def accumulate(contribution, experience: PyTree, microbatches: int):
    """Sums the first output over microbatches, and joins the second output of all rows.

    Sums are taken in float32 at least, whatever the dtype of what is summed, and rounded to it once
    at the end: in bfloat16 a microbatch would lose what is small beside those before it.
    """
    if microbatches == 1:
        return contribution(experience)
    parts = split(experience, microbatches)
    one = jax.tree.map(lambda x: x[0], parts)
    shapes = jax.eval_shape(contribution, one)[0]
    zero = jax.tree.map(
        lambda x: jnp.zeros(x.shape, jnp.promote_types(x.dtype, jnp.float32)), shapes
    )

    def add(total, microbatch):
        new, outputs = contribution(microbatch)
        return jax.tree.map(jnp.add, total, new), outputs

    total, outputs = jax.lax.scan(add, zero, parts)
    total = jax.tree.map(lambda x, like: x.astype(like.dtype), total, shapes)
    return total, join(outputs)


def _sampler_ratio(old_logps, microbatch: Experience, cap: float | None):
    """Truncated importance weight of each token: exp(trainer's log-probability - sampler's), of the
    policy that sampled, capped. Later updates do not change it.
    """
    if cap is None:
        return None
    return _flat(jnp.minimum(jnp.exp(old_logps - microbatch.sampler_logps), cap))


def _flat(x: Array) -> Array:
    """[B, G, t] to [B G, t]."""
    return x.reshape(-1, x.shape[-1])
