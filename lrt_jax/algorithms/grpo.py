"""Group-relative policy optimisation (arXiv 2402.03300), and with a listener's confidence as a part
of the reward (arXiv 2506.22832): one rollout, its rewards, and the updates on them.
"""

import dataclasses
from collections.abc import Iterator, Mapping

import jax
import numpy as np

from lrt_jax.algorithms.api import Algorithm, Run, StepReport, without_listener
from lrt_jax.algorithms.grpo_report import completion_metrics, samples, truth_metrics
from lrt_jax.algorithms.state import TrainState
from lrt_jax.algorithms.update import Updater
from lrt_jax.config import Config
from lrt_jax.config.schema import ListenerOptions, RewardOptions
from lrt_jax.data.schema import FIRST, SECOND, Batch, Target
from lrt_jax.parallel.collectives import all_gather_rows, shard_batch, shard_local_batch
from lrt_jax.reporting.curves import ACCURACY, Panel
from lrt_jax.reporting.model_card import PAPER, Method
from lrt_jax.reporting.monitor import Monitor
from lrt_jax.rl.advantages import group_advantages
from lrt_jax.rl.completions import Completions
from lrt_jax.rl.engine import POLICY, FrozenScores
from lrt_jax.rl.learner import Experience
from lrt_jax.rl.rewards import RewardInputs, Rewards, combine, find_term, reward_metrics
from lrt_jax.rl.rollout import Rollout
from lrt_jax.rl.tracing import COPY, Trace, counter_of

STREAM = 0  # of random numbers; evaluation has another
PLOTTED_TERMS = ("total", "format", "accuracy", "listener")
TITLE = "GRPO ([arXiv 2402.03300](https://arxiv.org/abs/2402.03300))"
DEFAULT_LISTENER_WEIGHT = ListenerOptions().weight


@dataclasses.dataclass(frozen=True)
class StepResult:
    """Everything that is known of a step, of the rows of all processes."""

    target: Target
    completions: Completions
    scores: FrozenScores
    inputs: RewardInputs
    rewards: Rewards
    advantages: np.ndarray  # float32 [B, G]
    metrics: dict[str, float]  # of the update


class GRPO(Algorithm):
    """Samples a group of completions for each pair, and makes the better ones likelier."""

    name = "grpo"
    panels = (
        Panel("reward in training", {name: f"reward/{name}/mean" for name in PLOTTED_TERMS}),
        Panel("accuracy", {"in training": "reward/accuracy/mean"}, ACCURACY),
        Panel(
            "listener's confidence, readable answers",
            {"in training": "listener/confidence"},
            {"held out": "listener_confidence"},
        ),
        Panel(
            "contradiction",
            {"training": "listener/contradiction_rate"},
            {
                "held out": "contradiction_rate",
                "held out, confident": "contradiction_rate_confident",
                "held out, by the held-out listener": "held_out_contradiction_rate",
            },
        ),
        Panel(
            "described objects that are there",
            {"training": "completions/trace_truth"},
            {"held out": "trace_truth"},
        ),
        Panel("KL from the start, nats a token", {"training": "kl"}),
    )

    @staticmethod
    def check(config: Config) -> Iterator[str]:
        """Config problems: a listener that is not asked, or groups without an advantage."""
        yield from _check_common(config)
        yield from without_listener(config)
        if config.listener.others:
            yield f"listener.others: algorithm={config.algorithm} asks no listener"
        if config.listener.weight not in (0, DEFAULT_LISTENER_WEIGHT):
            yield (
                f"listener.weight: {config.listener.weight:g}, but algorithm={config.algorithm} "
                "rewards no listener's confidence; take algorithm=listener_grpo, or leave the "
                "field out"
            )

    @staticmethod
    def needs_reference(config: Config) -> bool:
        """Whether there is a KL term."""
        return bool(config.loss.beta)

    @classmethod
    def method(cls, config: Config) -> Method:
        """The baseline of the paper."""
        return Method("grpo", f"{TITLE} without a listener, the baseline of {PAPER}", ("grpo",))

    def init(self, params: Mapping) -> TrainState:
        """The state before the first step; compiles nothing yet."""
        config, engine = self.run.config, self.run.engine
        updates = config.steps * config.loss.num_iterations
        optimizer, state, shardings = self.begin(params, updates)
        self.updater = Updater(
            engine.model, optimizer, config.loss, config.temperature, engine.mesh, shardings
        )
        return state

    def step(
        self, state: TrainState, host_batch: Batch, step: int, monitor: Monitor
    ) -> tuple[TrainState, StepResult]:
        """One rollout, its rewards, and the updates on them. `state` is used up."""
        config, engine = self.run.config, self.run.engine
        monitor.begin_step()
        # No implicit transfer between host and device: each is a call by name.
        with jax.transfer_guard("disallow"):
            with monitor.stage("rollout"):
                batch = shard_local_batch(host_batch, engine.mesh)
                params = engine.sampler_params(state.params, config.sampling.weights)
                features = engine.encode_images(params, batch)
                policy_features, sampling = features[POLICY], self.run.sampling
                rollout = engine.sample(
                    params, batch, policy_features, config.group_size, sampling, STREAM, step
                )
                del params  # the copy for sampling: its memory is wanted below
                completions = engine.decode_rollout(rollout)
            with monitor.stage("listener"):
                scores = engine.score_frozen(
                    batch,
                    features,
                    rollout,
                    completions,
                    ask_listeners=config.uses_listener,
                    reference_temperature=config.temperature if config.loss.beta else None,
                    microbatches=config.loss.microbatches,
                )
            with monitor.stage("update"):
                # From here on every process has all rows: advantages may be scaled over the batch.
                target = all_gather_rows(host_batch.target, engine.mesh)
                completions, scores = engine.all_gather(completions, scores)
                inputs = reward_inputs(self.run, target, completions, scores)
                rewards = combine(inputs, config.reward_weights)
                advantages = group_advantages(rewards.total, scale=config.rewards.advantage_scale)
                advantages = advantages * target.weight[:, None]  # 1 unless weighted
                experience = make_experience(
                    *(self.run, batch, policy_features, rollout, scores),
                    shard_batch(advantages, engine.mesh),
                )
                state, metrics = self.updater.update(state, experience)
        return state, StepResult(target, completions, scores, inputs, rewards, advantages, metrics)

    def trace_step(self, state: TrainState, batch: Batch, trace: Trace) -> None:
        """As `step`: see there which arrays live until when."""
        config, engine = self.run.config, self.run.engine
        params = engine.sampler_params(state.params, config.sampling.weights)
        trace.hold(COPY, params)
        features = engine.encode_images(params, batch)
        trace.hold("features", [*features.values()])
        policy_features, sampling = features[POLICY], self.run.sampling
        rollout = engine.sample(
            params, batch, policy_features, config.group_size, sampling, STREAM, 0
        )
        trace.hold("rollout", rollout)
        trace.release(COPY)
        scores = engine.score_frozen(
            batch,
            features,
            rollout,
            None,
            ask_listeners=config.uses_listener,
            reference_temperature=config.temperature if config.loss.beta else None,
            microbatches=config.loss.microbatches,
        )
        advantages = trace.rows(rollout.length.shape, "float32")
        experience = make_experience(self.run, batch, policy_features, rollout, scores, advantages)
        trace.hold("experience", experience)
        counter, sizes = counter_of(engine.model.config), rollout.tokens.shape
        flops = counter.score_group(*sizes[:2], batch.prompt.tokens.shape[-1], sizes[-1])
        flops += counter.logits(rollout.tokens.size)
        if not self.run.tower_is_frozen:
            pairs, images, patches = batch.images.patches.shape[:3]
            flops += counter.encode_images(pairs * images, patches)
        on_policy = trace.replicated((), "bool")
        trace.call(
            "update",
            self.updater._update,
            *(state, experience, on_policy),
            flops=flops,
            passes=3.0,
            calls=config.loss.num_iterations,
        )

    def report(self, result: StepResult) -> StepReport:
        """Rewards, the update, and what can be said of the completions."""
        completions = result.completions
        metrics = {
            **reward_metrics(result.rewards),
            **result.metrics,
            **completion_metrics(completions, result.scores, result.target.label),
            **truth_metrics(self.run, result.target, completions),
        }
        return StepReport(
            metrics=metrics,
            shown={"reward": metrics["reward/total/mean"]},
            terms={name: metrics[f"reward/{name}/mean"] for name in result.rewards.terms},
            tokens=int(completions.length.sum()),
            samples=lambda: samples(self.run, result),
        )


class ListenerGRPO(GRPO):
    """GRPO with the listener's confidence as a term of the reward."""

    name = "listener_grpo"

    @staticmethod
    def check(config: Config) -> Iterator[str]:
        """Config problems: groups without an advantage."""
        return _check_common(config)

    @classmethod
    def method(cls, config: Config) -> Method:
        """The method of the paper; with a listener of weight 0 it is plain GRPO."""
        if not config.uses_listener:
            return super().method(config)
        title = f"{TITLE} with a frozen listener in the reward, the method of {PAPER}"
        return Method(cls.name, title, ("grpo", "listener"))


def _check_common(c: Config) -> Iterator[str]:
    if c.data.demonstrations or c.model.from_scratch:
        field = "data.demonstrations" if c.data.demonstrations else "model.from_scratch"
        yield f"{field}: for algorithm=sft only; {c.algorithm} starts from a model that can answer"
    if c.group_size == 1 and c.rewards.advantage_scale == "group":
        yield (
            "group_size: 1 has no standard deviation; take 2 or more, or "
            "rewards.advantage_scale=none"
        )
    for name in c.rewards.weights:
        if name in RewardOptions.__dataclass_fields__ or name == "listener":
            yield f"rewards.weights: {name!r} has a field of its own"
            continue
        try:
            find_term(name)
        except ValueError as error:
            yield f"rewards.weights: {error}"
    if (
        c.sampling.weights == "int8"
        and c.data.train_split
        and c.loss.importance_sampling_cap is None
    ):
        yield (
            "sampling.weights: int8 samples from another policy than the one that is trained, and "
            "nothing weights its tokens for it; set loss.importance_sampling_cap=2.0"
        )
    if not any(c.reward_weights.values()):
        yield (
            "rewards: every weight is 0, so nothing is learnt; raise rewards.format, "
            "rewards.accuracy or listener.weight"
        )
    if not sum(listener.share for listener in c.listeners) > 0:
        yield "listener.share: all listeners have none; one at least must be above 0"


def reward_inputs(
    run: Run, target: Target, completions: Completions, scores: FrozenScores
) -> RewardInputs:
    """What people, the listeners and the completions say of each pair, side by side."""
    read = bool(run.config.rewards.weights)  # whether a term of the reward may read captions
    return RewardInputs(
        well_formed=completions.well_formed,
        choice=completions.choice,
        listener_p_first=None if scores.p_first is None else scores.p_first.astype(np.float32),
        p_first=hard_target(target) if run.config.data.target == "hard" else target.p_first,
        captions=[run.prepared.pair(int(row)).prompt for row in target.pair] if read else [],
        texts=completions.texts,
        traces=completions.traces,
    )


def hard_target(target: Target) -> np.ndarray:
    """1, 0 or, for a tie, one half: what the majority says of the first image shown."""
    label = target.label
    return np.where(label == FIRST, 1.0, np.where(label == SECOND, 0.0, 0.5)).astype(np.float32)


def make_experience(
    run: Run, batch: Batch, features, rollout: Rollout, scores: FrozenScores, advantages: jax.Array
) -> Experience:
    """All that an update needs, on the devices."""
    return Experience(
        prompt=batch.prompt,
        images=None if run.tower_is_frozen else batch.images,
        features=features if run.tower_is_frozen else None,
        tokens=rollout.tokens,
        length=rollout.length,
        sampler_logps=rollout.logps,
        reference_logps=scores.reference_logps,
        old_logps=rollout.logps,  # a placeholder: the first update takes its own
        advantages=advantages,
    )
