"""Learning from given completions by maximum likelihood, the prompt's work done once a group."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jaxtyping import Array, Bool, Float

from lrt_jax.algorithms.state import TrainState, apply_gradient, param_norm
from lrt_jax.data.schema import Lessons
from lrt_jax.models import Images, Prompt, Qwen2_5_VL, call
from lrt_jax.rl.learner import accumulate, join_frozen
from lrt_jax.rl.logprobs import token_logps
from lrt_jax.rl.soundness import check_metrics, unsound_rows


@struct.dataclass
class Study:
    """`B` prompts, the images they show, and completions of each that are to be imitated."""

    prompt: Prompt
    images: Images
    lessons: Lessons
    weight: Float[Array, " B"] | None = None  # of each pair's loss; None for 1 each


def supervised_gradient(
    model: Qwen2_5_VL, trainable: dict, frozen: dict, study: Study, microbatches: int = 1
) -> tuple[dict[str, Array], dict[str, Float[Array, ""]], Bool[Array, " B"]]:
    """Gradient of the mean negative log-likelihood of the completions' tokens, in nats.

    The mean is over the tokens of the whole batch, however many microbatches it is cut into. A
    pair's weight multiplies what its tokens add to it.

    Returns:
      The gradient, like `trainable`; the mean as `loss`, and as `sure_of` the share of
      tokens that have more than half of the probability, which is then the likeliest for sure;
      and of `unsound_rows`.
    """
    total = study.lessons.length.sum()

    def objective(trainable: dict, part: Study):
        logps, mask = _logps(model, join_frozen(trainable, frozen), part)
        counted = logps * mask
        if part.weight is not None:
            counted *= part.weight[:, None, None]
        loss = -jnp.sum(counted) / total
        likely = jnp.sum((logps > jnp.log(0.5)) & mask) / total
        sums = {"loss": jax.lax.stop_gradient(loss), "sure_of": likely}
        return loss, (sums, unsound_rows(mask, logps))

    def contribution(part: Study):
        grads, (sums, unsound) = jax.grad(objective, has_aux=True)(trainable, part)
        return (grads, sums), unsound

    (grads, sums), unsound = accumulate(contribution, study, microbatches)
    return grads, sums, unsound


def _logps(model: Qwen2_5_VL, params: Mapping, study: Study):
    """([B, G, t] log-probability of each token, [B, G, t] which of them are no padding)."""
    tokens, length = study.lessons.tokens, study.lessons.length
    features = call(model, params, "encode_images", study.images)
    hidden = call(model, params, "score_group", study.prompt, features, tokens)
    logps, _ = token_logps(model, params, hidden, tokens, temperature=1.0)
    return logps, jnp.arange(tokens.shape[-1]) < length[..., None]


class SupervisedUpdater:
    """Takes gradient steps on given completions.

    Args:
      model: the policy.
      optimizer: for its trainable parameters.
      microbatches: passes over parts of the pairs that add up to one gradient.
      places: sharding of every leaf of the state, which an update keeps.
    """

    def __init__(
        self,
        model: Qwen2_5_VL,
        optimizer: optax.GradientTransformation,
        microbatches: int,
        places: TrainState,
    ):
        def update(state: TrainState, study: Study):
            grads, metrics, unsound = supervised_gradient(
                model, state.trainable, state.frozen, study, microbatches
            )
            state = apply_gradient(state, grads, optimizer)
            metrics |= {"grad_norm": optax.global_norm(grads), "param_norm": param_norm(state)}
            return state.replace(step=state.step + 1), (metrics, unsound)

        # Metrics go to every device, as the count of steps does: every process reads them.
        out = (places, places.step)
        self._update = jax.jit(update, donate_argnames="state", out_shardings=out)

    def learn(self, state: TrainState, study: Study) -> tuple[TrainState, dict[str, float]]:
        """One update and its metrics; waits for the devices. `state` is used up.

        Raises:
          NotFiniteError: the loss or the gradient is not finite.
        """
        state, results = self._update(state, study)
        metrics, unsound = jax.device_get(results)
        check_metrics(metrics, unsound)
        return state, {name: float(value) for name, value in metrics.items()}
