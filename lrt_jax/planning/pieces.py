"""The compiled functions of a run, from its config alone: nothing is loaded.

What a step compiles its algorithm says (`Algorithm.trace_step`), what an evaluation compiles is
here; both take the calls of the run itself.
"""

from collections.abc import Callable

import jax.numpy as jnp
from jax.sharding import Mesh

from lrt_jax.algorithms import algorithm_of
from lrt_jax.algorithms.api import Algorithm, Run
from lrt_jax.algorithms.state import TrainState
from lrt_jax.config import Config
from lrt_jax.config.schema import ListenerSpec
from lrt_jax.data.schema import Batch
from lrt_jax.evaluation.evaluator import MODES, STREAM, reading_both_modes
from lrt_jax.models import ModelConfig, VisionLanguageModel, abstract_params
from lrt_jax.models.attention import attention_for
from lrt_jax.models.families import family
from lrt_jax.parallel.collectives import batch_sharding
from lrt_jax.planning.models import KnownModel, find_model, paths_of
from lrt_jax.rl.engine import POLICY
from lrt_jax.rl.frozen import FrozenModel
from lrt_jax.rl.listener import Listener, judge_width
from lrt_jax.rl.rollout import SamplingConfig
from lrt_jax.rl.tracing import COPY, Piece, Trace, TracedEngine, traced_batch
from lrt_jax.training.roles import tower_is_frozen

Resize = Callable[[ModelConfig], ModelConfig]


def known_models(config: Config, resized: Resize) -> list[KnownModel]:
    """The policy, and after it the frozen models."""
    frozen = paths_of(config, reference=algorithm_of(config).needs_reference(config))
    paths = dict.fromkeys([config.model.path, *frozen])
    return [find_model(path, config.prompts, resized) for path in paths]


def trace_run(config: Config, mesh: Mesh, resized: Resize) -> list[Piece]:
    """Traces a step and an evaluation.

    Raises:
      FileNotFoundError: a model is not known, see `find_model`.
      ValueError: the config leaves sizes to the data, its algorithm does not say what it compiles,
        or a family does not say what its computations are worth.
    """
    check_sizes(config)
    _check_tells(config)
    trace = Trace(mesh)
    run, params = _abstract_run(config, trace, resized)
    algorithm = algorithm_of(config)(run)
    state = algorithm.init(params)
    batch = _batch(run, trace, config.batch_size)
    _hold(trace, run, state, batch)
    algorithm.trace_step(state, batch, trace)
    trace.begin_evaluation()
    _trace_evaluation(run, state, trace)
    return trace.pieces


def check_sizes(config: Config) -> None:
    """Refuses sizes that only the data know.

    Raises:
      ValueError: there are some; all are named.
    """
    judges = any(x.style == "judge" for x in config.evaluating_listeners)
    sizes = {"data.max_patches": config.data.max_patches}
    sizes |= {"data.prompt_tokens": config.data.prompt_tokens}
    sizes |= {"data.judge_tokens": config.data.judge_tokens} if judges else {}
    if missing := [name for name, value in sizes.items() if value is None]:
        flags = " ".join(f"--config.{name}=N" for name in missing)
        raise ValueError(
            f"{', '.join(missing)}: measured from the data, which a plan does not read; "
            f"give {flags}"
        )


def _check_tells(config: Config) -> None:
    """Refuses an algorithm that does not say what it compiles."""
    if algorithm_of(config).trace_step is Algorithm.trace_step:
        raise ValueError(
            f"algorithm: {config.algorithm} does not say what it compiles: its class needs a "
            "method trace_step, see Algorithm in lrt_jax/algorithms/api.py, and GRPO.trace_step"
        )


def _hold(trace: Trace, run: Run, state: TrainState, batch: Batch) -> None:
    """What lives all the time: the state, the frozen models, and a batch."""
    engine = run.engine
    frozen = [x.frozen for x in engine.asked_listeners(held_out=True)]
    frozen += [engine.reference] if engine.reference else []
    trace.hold("parameters", (state.trainable, state.frozen))
    trace.hold("optimizer", (state.step, state.opt_state))
    trace.hold("frozen models", [x.params for x in frozen])
    trace.hold("batch", batch)


def _trace_evaluation(run: Run, state: TrainState, trace: Trace) -> None:
    """As `evaluator.evaluate`: see there which arrays live until when."""
    engine = run.engine
    batch = _batch(run, trace, run.config.eval.batch_size)
    _hold(trace, run, state, batch)
    params = engine.sampler_params(state.params)
    trace.hold(COPY, params)
    features = engine.encode_images(state.params, batch, held_out=True)
    trace.hold("features", [*features.values()])
    both_modes = reading_both_modes(run.sampling, engine.answer_ids)
    policy_features = features[POLICY]
    rollout = engine.sample(params, batch, policy_features, len(MODES), both_modes, STREAM, 0)
    trace.hold("rollout", rollout)
    engine.score_frozen(batch, features, rollout, None, alone=True, held_out=True)


def _abstract_run(config: Config, trace: Trace, resized: Resize) -> tuple[Run, dict]:
    """As `setup.open_run`, without data and values."""
    models = {}
    for path in {config.model.path: None} | dict.fromkeys(paths_of(config, reference=True)):
        models[path] = find_model(path, config.prompts, resized)
    policy = models[config.model.path]
    dtype, param_dtype = (jnp.dtype(d) for d in (config.model.dtype, config.model.param_dtype))
    kernels = attention_for(config.model.attention, trace.mesh.devices.flat[0].platform, dtype)
    numerics = {"dtype": dtype, "attention": kernels}
    model = _model(policy.config, trace.mesh, remat=config.model.remat, **numerics)
    params = abstract_params(model, trace.mesh, "train", param_dtype)
    frozen_tower = tower_is_frozen(params, config.model.freeze)
    frozen: dict[str, FrozenModel] = {}

    def open_frozen(path: str) -> FrozenModel:
        known = models[path]
        if known.checkpoint not in frozen:
            module = _model(known.config, trace.mesh, **numerics)
            weights = abstract_params(module, trace.mesh, "train", dtype)
            same_tower = known.checkpoint == policy.checkpoint and frozen_tower
            frozen[known.checkpoint] = FrozenModel(
                known.checkpoint, module, weights, None, known.answer_ids, same_tower
            )
        return frozen[known.checkpoint]

    def listener(asked: ListenerSpec) -> Listener:
        path = asked.path or config.model.path
        tail = models[path].judge_tail if asked.style == "judge" else 0
        width = judge_width(config.max_completion_length, tail)
        return Listener(open_frozen(path), asked.style, asked.share, (0,) * tail, width)

    listeners = [listener(asked) for asked in config.asked_listeners]
    known = {x.frozen.checkpoint for x in listeners}
    known |= set() if config.model.from_scratch else {policy.checkpoint}
    asked = config.held_out
    is_new = asked is not None and models[asked.path].checkpoint not in known
    held_out = listener(asked) if is_new else None
    compares = algorithm_of(config).needs_reference(config)
    reference = open_frozen(config.model.path) if compares else None
    engine = TracedEngine(trace, model, policy.answer_ids, listeners, reference, held_out)
    sampling = SamplingConfig(
        config.max_completion_length, policy.stop_ids, config.temperature, config.top_p
    )
    run = Run(config, None, engine, frozen_tower, sampling, None, None, (), None, {})
    return run, params


def _model(config: ModelConfig, mesh: Mesh, **options) -> VisionLanguageModel:
    return family(config).model(config, sharding=batch_sharding(mesh), **options)


def _batch(run: Run, trace: Trace, pairs: int) -> Batch:
    data = run.config.data
    judges = [
        data.judge_tokens for x in run.engine.asked_listeners(held_out=True) if x.style == "judge"
    ]
    sizes = (pairs, data.max_patches, data.prompt_tokens)
    return traced_batch(trace, run.engine.model.config, *sizes, judges)
