"""Learning from given completions by maximum likelihood, the prompt's work done once a group."""

import dataclasses
import math
from collections.abc import Iterator, Mapping

import jax
import jax.numpy as jnp
import numpy as np
import optax
from etils import epath
from flax import struct
from jaxtyping import Array, Bool, Float

from lrt_jax.algorithms.api import Algorithm, StepReport, without_listener
from lrt_jax.algorithms.state import TrainState, apply_gradient, param_norm
from lrt_jax.config import Config
from lrt_jax.config.scenes import TRACES
from lrt_jax.data.dataset.mixture import DataSet
from lrt_jax.data.input.demonstrations import (
    DemonstrationEncoder,
    DemonstrationFile,
    Lookup,
    bare_answers,
)
from lrt_jax.data.schema import Batch, Demonstrations
from lrt_jax.models import BoundModel, Images, Prompt, VisionLanguageModel
from lrt_jax.parallel.collectives import all_gather_rows, shard_local_batch
from lrt_jax.parallel.progress import progress_bar
from lrt_jax.reporting.curves import ACCURACY, Panel
from lrt_jax.reporting.model_card import PAPER, Method
from lrt_jax.reporting.monitor import Monitor
from lrt_jax.rl.learner import accumulate, join_frozen
from lrt_jax.rl.logprobs import token_logps
from lrt_jax.rl.nonfinite import check_metrics, nonfinite_rows
from lrt_jax.rl.tracing import Trace, counter_of
from lrt_jax.storage.disk import expanded

ANSWERS = "answers"  # of `data.demonstrations`


@struct.dataclass
class SFTBatch:
    """`B` prompts, the images they show, and completions of each that are to be imitated."""

    prompt: Prompt
    images: Images
    demonstrations: Demonstrations
    weight: Float[Array, " B"] | None = None  # of each pair's loss; None for 1 each


def supervised_gradient(
    model: VisionLanguageModel,
    trainable: dict,
    frozen: dict,
    batch: SFTBatch,
    microbatches: int = 1,
) -> tuple[dict[str, Array], dict[str, Float[Array, ""]], Bool[Array, " B"]]:
    """Gradient of the mean negative log-likelihood of the completions' tokens, in nats.

    The mean is over the tokens of the whole batch, however many microbatches it is cut into. A
    pair's weight multiplies what its tokens add to it.

    Returns:
      The gradient, like `trainable`; the mean as `loss`, and as `sure_of` the share of
      tokens that have more than half of the probability, which is then the likeliest for sure;
      and of `nonfinite_rows`.
    """
    total = batch.demonstrations.length.sum()

    def objective(trainable: dict, microbatch: SFTBatch):
        logps, mask = _logps(model, join_frozen(trainable, frozen), microbatch)
        counted = logps * mask
        if microbatch.weight is not None:
            counted *= microbatch.weight[:, None, None]
        loss = -jnp.sum(counted) / total
        likely = jnp.sum((logps > jnp.log(0.5)) & mask) / total
        sums = {"loss": jax.lax.stop_gradient(loss), "sure_of": likely}
        return loss, (sums, nonfinite_rows(mask, logps))

    def contribution(microbatch: SFTBatch):
        grads, (sums, nonfinite) = jax.grad(objective, has_aux=True)(trainable, microbatch)
        return (grads, sums), nonfinite

    (grads, sums), nonfinite = accumulate(contribution, batch, microbatches)
    return grads, sums, nonfinite


def _logps(model: VisionLanguageModel, params: Mapping, batch: SFTBatch):
    """([B, G, t] log-probability of each token, [B, G, t] which of them are no padding)."""
    tokens, length = batch.demonstrations.tokens, batch.demonstrations.length
    features = BoundModel(model, params).encode_images(batch.images)
    hidden = BoundModel(model, params).score_group(batch.prompt, features, tokens)
    logps, _ = token_logps(model, params, hidden, tokens, temperature=1.0)
    return logps, jnp.arange(tokens.shape[-1]) < length[..., None]


@dataclasses.dataclass(frozen=True)
class StepResult:
    """What is known of a step, on the host: metrics, and how many tokens were learnt from."""

    metrics: dict[str, float]
    tokens: int


class SFT(Algorithm):
    """Learns given completions by heart, as far as a model can: a start for GRPO."""

    name = "sft"
    panels = (
        Panel("loss, nats a token", {"training": "loss"}),
        Panel("share of tokens given more than half", {"training": "sure_of"}),
        Panel("accuracy", {}, ACCURACY),
        Panel("described objects that are there", {}, {"held out": "trace_truth"}),
    )

    @staticmethod
    def check(c: Config) -> Iterator[str]:
        """Refuses data without completions to imitate, and what has no part in this algorithm."""
        yield from without_listener(c)
        if not c.data.demonstrations and c.data.source != "scenes":
            yield (
                "data.demonstrations: algorithm=sft needs completions to imitate; name their file, "
                "or data.demonstrations=answers"
            )
        if not c.data.demonstrations and not c.data.path and not c.data.scenes.traces:
            yield "data.scenes.traces: 0, so there is nothing for algorithm=sft to imitate; take 1"
        sources = [data_set.source for data_set in c.data_sets]
        if c.data.others and not c.data.demonstrations:
            yield (
                "data.demonstrations: the traces beside scenes are not those of data.others; name "
                "a file"
            )
        elif len(set(sources)) < len(sources) and c.data.demonstrations != "answers":
            yield (
                "data.demonstrations: sets of the same source may call different pairs alike, and "
                "a file finds demonstrations by name; take data.demonstrations=answers, or one set"
            )
        if c.data.demonstrations == "answers" and c.data.target == "votes":
            yield (
                "data.demonstrations: answers are of the majority, take data.target=hard with them"
            )
        if c.model.from_scratch and c.model.freeze:
            yield (
                "model.freeze: what starts from scratch and is never trained stays random; take "
                "model.freeze=()"
            )
        if c.loss.num_iterations != 1:
            yield f"loss.num_iterations: {c.loss.num_iterations}; algorithm=sft updates once a step"

    @classmethod
    def method(cls, config: Config) -> Method:
        """A start for the method of the paper."""
        title = f"supervised learning on given completions, as a start for the method of {PAPER}"
        return Method(cls.name, title, ("sft",), rewarded=False)

    def demonstration_encoder(self) -> DemonstrationEncoder:
        """Completions of all training pairs, which are looked at first.

        Raises:
          FileNotFoundError: the file that the config names, or that should lie beside the data, is
            not there.
          DemonstrationError: a training pair has none in one of its orders, or one too long.
        """
        run, config = self.run, self.run.config
        demonstrations = DemonstrationEncoder(
            run.engine.tokenizer,
            run.sampling.stop_ids[0],
            config.group_size,
            config.max_completion_length,
            _find_demonstrations(config, run.prepared),
        )
        rows = run.training_rows
        records = (run.prepared.pair(int(row)) for row in rows)
        demonstrations.check(
            progress_bar("reading", len(rows), "demonstrations", things=records, delay=3)
        )
        return demonstrations

    def init(self, params: Mapping) -> TrainState:
        """The state before the first step; compiles nothing yet."""
        config, model = self.run.config, self.run.engine.model
        optimizer, state, shardings = self.begin(params, config.steps)
        self.updater = Updater(model, optimizer, config.loss.microbatches, shardings)
        return state

    def step(
        self, state: TrainState, host_batch: Batch, step: int, monitor: Monitor
    ) -> tuple[TrainState, StepResult]:
        """One update on the demonstrations of a batch. `state` is used up."""
        config, mesh = self.run.config, self.run.engine.mesh
        monitor.begin_step()
        with jax.transfer_guard("disallow"), monitor.stage("update"):
            batch = shard_local_batch(host_batch, mesh)
            weight = batch.target.weight if config.data.pair_weights == "margin" else None
            inputs = SFTBatch(batch.prompt, batch.images, batch.demonstrations, weight)
            state, metrics = self.updater.update(state, inputs)
        tokens = all_gather_rows(np.asarray(host_batch.demonstrations.length), mesh)
        return state, StepResult(metrics, int(np.sum(tokens)))

    def trace_step(self, state: TrainState, batch: Batch, trace: Trace) -> None:
        """As `step`: one update, the tower included."""
        config, model = self.run.config, self.run.engine.model
        shape = (len(batch.prompt.tokens), config.group_size, config.max_completion_length)
        demonstrations = Demonstrations(
            tokens=trace.rows(shape, "int32"), length=trace.rows(shape[:2], "int32")
        )
        trace.hold("demonstrations", demonstrations)
        weight = batch.target.weight if config.data.pair_weights == "margin" else None
        inputs = SFTBatch(batch.prompt, batch.images, demonstrations, weight)
        counter = counter_of(model.config)
        flops = counter.score_group(*shape[:2], batch.prompt.tokens.shape[-1], shape[-1])
        flops += counter.logits(math.prod(shape))
        pairs, images, patches = batch.images.patches.shape[:3]
        tower = counter.encode_images(pairs * images, patches)
        tower *= 1 / 3 if self.run.tower_is_frozen else 1  # which has no backward pass
        trace.call("update", self.updater._update, state, inputs, flops=flops + tower, passes=3.0)

    def report(self, result: StepResult) -> StepReport:
        """The loss, and how many tokens are known for sure."""
        shown = {"loss": result.metrics["loss"], "sure of": result.metrics["sure_of"]}
        return StepReport(result.metrics, shown, tokens=result.tokens)


def _find_demonstrations(config: Config, prepared: DataSet) -> Lookup:
    demonstrations = config.data.demonstrations
    if demonstrations == ANSWERS:
        return bare_answers
    path = epath.Path(expanded(demonstrations)) if demonstrations else prepared.beside(TRACES)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; data.demonstrations names what to imitate")
    return DemonstrationFile(str(path))


class Updater:
    """Takes gradient steps on given completions.

    Args:
      model: the policy.
      optimizer: for its trainable parameters.
      microbatches: passes over parts of the pairs that add up to one gradient.
      shardings: sharding of every leaf of the state, which an update keeps.
    """

    def __init__(
        self,
        model: VisionLanguageModel,
        optimizer: optax.GradientTransformation,
        microbatches: int,
        shardings: TrainState,
    ):
        def update(state: TrainState, batch: SFTBatch):
            grads, metrics, nonfinite = supervised_gradient(
                model, state.trainable, state.frozen, batch, microbatches
            )
            state = apply_gradient(state, grads, optimizer)
            metrics |= {"grad_norm": optax.global_norm(grads), "param_norm": param_norm(state)}
            return state.replace(step=state.step + 1), (metrics, nonfinite)

        # Metrics go to every device, as the count of steps does: every process reads them.
        out = (shardings, shardings.step)
        self._update = jax.jit(update, donate_argnames="state", out_shardings=out)

    def update(self, state: TrainState, batch: SFTBatch) -> tuple[TrainState, dict[str, float]]:
        """One update and its metrics; waits for the devices. `state` is used up.

        Raises:
          NotFiniteError: the loss or the gradient is not finite.
        """
        state, results = self._update(state, batch)
        metrics, nonfinite = jax.device_get(results)
        check_metrics(metrics, nonfinite)
        return state, {name: float(value) for name, value in metrics.items()}
