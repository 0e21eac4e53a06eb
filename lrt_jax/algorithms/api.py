"""What a run works with, and what the training loop asks of an algorithm."""

import abc
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import jax
import optax

from lrt_jax.algorithms.optimizer import make_optimizer
from lrt_jax.algorithms.state import TrainState, initial_state, planned_state
from lrt_jax.config import Config
from lrt_jax.data.dataset.mixture import DataSet
from lrt_jax.data.dataset.selection import Rows, training_rows
from lrt_jax.data.input.demonstrations import DemonstrationEncoder
from lrt_jax.data.input.pairs import PairEncoder
from lrt_jax.data.input.pipeline import EvalLoader, TrainLoader, eval_loader, train_loader
from lrt_jax.data.schema import Batch
from lrt_jax.evaluation.scene_truth import SceneTruth
from lrt_jax.models import matrix_axes
from lrt_jax.parallel import processes
from lrt_jax.reporting.completions import Completion
from lrt_jax.reporting.curves import Panel
from lrt_jax.reporting.model_card import Method
from lrt_jax.reporting.monitor import Monitor
from lrt_jax.rl.engine import Engine
from lrt_jax.rl.rollout import SamplingConfig
from lrt_jax.rl.tracing import Trace


@dataclasses.dataclass(frozen=True)
class Run:
    """What training and evaluation work with; everything but the parameters that change."""

    config: Config  # resolved
    folder: Path  # HF folder that the policy starts from
    engine: Engine  # policy and frozen models
    tower_is_frozen: bool  # whether the vision tower stays as it is
    sampling: SamplingConfig  # of rollouts
    prepared: DataSet  # the data
    encoder: PairEncoder  # stored pairs to examples
    left_out: Rows  # rows of pairs that are neither trained on nor evaluated
    truth: SceneTruth | None  # what is in the images, where it is known
    # digests of what is read, by name: model, listeners, data set. They must stay the same when a
    # run goes on
    input_digests: Mapping[str, str]

    @property
    def training_rows(self) -> Rows:
        """Rows of the pairs that are trained on."""
        split, drop_ties = self.config.data.train_split, self.config.drops_ties
        return training_rows(self.prepared, split, drop_ties, self.left_out)

    def train_loader(self, demonstrations: DemonstrationEncoder | None = None) -> TrainLoader:
        """Endless training batches, with completions to imitate where these are given."""
        data = self.config.data
        return train_loader(
            self.prepared,
            self.encoder,
            split=data.train_split,
            batch_size=self.config.batch_size,
            seed=self.config.seed,
            process_index=processes.index(),
            process_count=processes.count(),
            num_threads=data.threads,
            num_workers=data.workers,
            drop_ties=self.config.drops_ties,
            leave_out=self.left_out,
            pair_weights=data.pair_weights,
            demonstrations=demonstrations,
        )

    def eval_loader(self, split: str | None = None) -> EvalLoader:
        """The pairs of an evaluation, once.

        Args:
          split: that is evaluated; None for the config's first.
        """
        options = self.config.eval
        return eval_loader(
            self.prepared,
            self.encoder,
            split=options.split if split is None else split,
            batch_size=options.batch_size,
            limit=options.pairs or None,
            seed=0,  # the same pairs for every seed, so that runs can be compared in pairs
            process_index=processes.index(),
            process_count=processes.count(),
            leave_out=self.left_out,
            num_threads=self.config.data.threads,
        )


@dataclasses.dataclass(frozen=True)
class StepReport:
    """Metrics and log line of one step."""

    metrics: dict[str, float]  # a line of `metrics.jsonl`, but for rates and times
    shown: dict[str, float]  # what the progress line begins with
    # what the last number shown is made of
    terms: dict[str, float] = dataclasses.field(default_factory=dict)
    tokens: int = 0  # generated, or learnt from
    # makes the completions to keep, where it is their turn
    samples: Callable[[], list[Completion]] = list


def without_listener(config: Config) -> Iterator[str]:
    """Config problems of an algorithm that asks no listener."""
    if config.uses_listener:
        yield (
            f"listener.weight: algorithm={config.algorithm} rewards no listener's confidence; set "
            "it to 0"
        )


class Algorithm(abc.ABC):
    """Trains the policy of one run. The loop calls `init` once, then `step` and `report` in turn.

    Attributes:
      name: of an algorithm of the project, in model cards; one of your own is called by its class.
      panels: of `curves.png`.
      run: what it works with.
    """

    name: ClassVar[str]
    panels: ClassVar[Sequence[Panel]] = ()

    def __init__(self, run: Run):
        self.run = run

    @staticmethod
    def check(config: Config) -> Iterator[str]:
        """A line for each thing in a config that this algorithm cannot be run with."""
        return iter(())

    @staticmethod
    def needs_reference(config: Config) -> bool:
        """Whether the policy's frozen starting point is to be loaded too."""
        return False

    def demonstration_encoder(self) -> DemonstrationEncoder | None:
        """What adds completions to imitate to training pairs; None where nothing is imitated."""
        return None

    @classmethod
    def method(cls, config: Config) -> Method:
        """What a model card calls it; asked of the project's own alone, see `method_of`."""
        return Method(cls.name, cls.name, (cls.name,))

    @abc.abstractmethod
    def init(self, params: Mapping) -> TrainState:
        """The state before the first step, which takes over the policy's parameters.

        Of shapes with shardings in place of parameters it is shapes too, see `trace_step`.
        """

    def begin(
        self, params: Mapping, updates: int
    ) -> tuple[optax.GradientTransformation, TrainState, TrainState]:
        """The config's optimizer for so many updates, the first state, and its shardings."""
        config, engine = self.run.config, self.run.engine
        optimizer = make_optimizer(config.optimizer, updates, matrix_axes(engine.model))
        shapes = any(isinstance(x, jax.ShapeDtypeStruct) for x in jax.tree.leaves(params))
        make = planned_state if shapes else initial_state
        state = make(params, config.model.freeze, optimizer, engine.mesh)
        return optimizer, state, jax.tree.map(lambda leaf: leaf.sharding, state)

    @abc.abstractmethod
    def step(
        self, state: TrainState, host_batch: Batch, step: int, monitor: Monitor
    ) -> tuple[TrainState, Any]:
        """One step on a batch.

        Args:
          state: of the step before; used up.
          host_batch: this process's rows, NumPy.
          step: its number, from 1.
          monitor: is to time the stages.

        Returns:
          The new state, and what `report` makes something of.

        Raises:
          NotFiniteError: a number is NaN or infinite.
        """

    def trace_step(self, state: TrainState, batch: Batch, trace: Trace) -> None:
        """What `step` compiles, and what lives on the devices meanwhile, for `lrt_jax.plan`.

        The run has a config, a `TracedEngine` and a `SamplingConfig` then, and no data.

        Args:
          state: of `init`, shapes.
          batch: of all processes, shapes.
          trace: takes every call of a jitted function by `trace.call`, and is told by `hold` and
            `release` which arrays live. State, batch and frozen models are held already.

        Raises:
          NotImplementedError: the algorithm does not say.
        """
        raise NotImplementedError

    @abc.abstractmethod
    def report(self, result: Any) -> StepReport:
        """Metrics and log line, from `step`'s second result. Called in the first process alone."""
