"""GRPO's jitted update, and its metrics."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from lrt_jax.algorithms.state import TrainState, apply_gradient, param_norm
from lrt_jax.config import LossConfig
from lrt_jax.models import VisionLanguageModel
from lrt_jax.parallel.collectives import batch_sharding, replicate
from lrt_jax.rl.learner import Experience, policy_gradient
from lrt_jax.rl.losses import mean_metrics
from lrt_jax.rl.nonfinite import check_metrics, nonfinite_rows


class Updater:
    """Takes gradient steps on experience.

    Args:
      model: the policy.
      optimizer: for its trainable parameters.
      loss: which loss, and how many updates are made for each rollout.
      temperature: of the distribution that is sampled.
      mesh: of the devices.
      shardings: sharding of every leaf of the state, which an update keeps.
    """

    def __init__(
        self,
        model: VisionLanguageModel,
        optimizer: optax.GradientTransformation,
        loss: LossConfig,
        temperature: float,
        mesh: Mesh,
        shardings: TrainState,
    ):
        self.num_iterations, self._mesh = loss.num_iterations, mesh

        def update(state: TrainState, experience: Experience, on_policy):
            grads, sums, logps = policy_gradient(
                model, state.trainable, state.frozen, experience, on_policy, loss, temperature
            )
            metrics = mean_metrics(sums) | _further_metrics(
                sums, grads, logps, experience, loss.importance_sampling_cap
            )
            nonfinite = nonfinite_rows(
                experience.mask, logps, experience.sampler_logps, experience.reference_logps
            )
            state = apply_gradient(state, grads, optimizer)
            metrics["param_norm"] = param_norm(state)
            return state, (metrics, nonfinite), logps

        # Metrics go to every device, so that every process can read them; log-probabilities stay
        # with their rows. The old state's memory becomes the new one's. Experience is not given
        # up: it is used again by the next update, and nothing that comes out is like it.
        per_row, replicated = batch_sharding(mesh), shardings.step  # the step is replicated
        out = (shardings, replicated, per_row)
        self._update = jax.jit(update, donate_argnames="state", out_shardings=out)
        self._next_step = jax.jit(
            lambda step: step + 1, donate_argnames="step", out_shardings=replicated
        )

    def update(
        self, state: TrainState, experience: Experience
    ) -> tuple[TrainState, dict[str, float]]:
        """All updates of one step, and the means of their metrics; waits for the devices.

        `state` is used up.

        Raises:
          NotFiniteError: the loss, the gradient or another metric is not finite.
        """
        every = []
        for iteration in range(self.num_iterations):
            on_policy = replicate(np.bool_(iteration == 0), self._mesh)
            state, results, logps = self._update(state, experience, on_policy)
            if iteration == 0:  # the trainer's log-probabilities of the policy that sampled
                experience = experience.replace(old_logps=logps)
            every.append(results)
        state = state.replace(step=self._next_step(state.step))
        metrics, nonfinite = zip(*jax.device_get(every), strict=True)
        for each in zip(metrics, nonfinite, strict=True):
            check_metrics(*each)
        means = {name: float(np.mean([m[name] for m in metrics])) for name in metrics[0]}
        # Sampler against trainer means the policy that sampled, not the ones updated since.
        drift = {name: float(metrics[0][name]) for name in means if name.startswith("sampler_")}
        return state, means | drift


def _further_metrics(
    sums, grads, logps, experience: Experience, cap: float | None
) -> dict[str, jax.Array]:
    tokens = jnp.maximum(sums["tokens"], 1.0)
    difference = (logps - experience.sampler_logps) * experience.mask
    drift = jnp.abs(difference)
    metrics = {
        "loss": sums["loss"],
        "entropy": sums["entropy"] / tokens,
        "grad_norm": optax.global_norm(grads),
        "sampler_drift_mean": drift.sum() / tokens,
        "sampler_drift_max": drift.max(),
    }
    if cap is not None:  # share of tokens whose importance weight it cuts
        metrics["sampler_cut"] = (jnp.exp(difference) > cap).sum(where=experience.mask) / tokens
    return metrics
