"""From a config to the objects of a run: data, policy, engine."""

import logging
from collections.abc import Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from transformers import PreTrainedTokenizerBase

from lrt_jax.algorithms import algorithm_of
from lrt_jax.algorithms.api import Run
from lrt_jax.config import Config, ConfigError, ListenerSpec
from lrt_jax.config.checks import rows_problems
from lrt_jax.data.input.tokenizer import (
    answer_token_ids,
    load_tokenizer,
    stop_token_ids,
    with_tokenizer,
)
from lrt_jax.evaluation.scene_truth import find_truth
from lrt_jax.models import (
    VisionLanguageModel,
    folder_digest,
    load_model,
    quantised_paths,
    undivided_parameters,
)
from lrt_jax.models.folders import model_folder
from lrt_jax.parallel import processes
from lrt_jax.parallel.collectives import batch_sharding
from lrt_jax.parallel.mesh import make_mesh
from lrt_jax.rl.engine import Engine
from lrt_jax.rl.rollout import SamplingConfig
from lrt_jax.training.data import (
    Barrier,
    check_data_path,
    image_policy,
    log_without_votes,
    long_captions,
    open_data,
    pair_encoder,
    refuse_trained_pairs,
    warn_of_few,
)
from lrt_jax.training.files import digest_of
from lrt_jax.training.roles import (
    FrozenModels,
    find_held_out,
    open_listener,
    open_listeners,
    tower_is_frozen,
    warn_of_tiny,
)

logger = logging.getLogger(__name__)


def open_run(
    config: Config,
    workdir: Path,
    *,
    policy: str | None = None,
    barrier: Barrier = processes.barrier,
) -> tuple[Run, dict]:
    """Loads everything that a config names, and logs what that is, a line each.

    Args:
      config: resolved.
      workdir: raw data are prepared into it.
      policy: model to evaluate in place of the config's, which stays the listener's and the
        reference's. The training split is not looked at then.
      barrier: where all processes come to see what the first has prepared.

    Returns:
      The run, and the policy's parameters, nested and in the layout of training.

    Raises:
      FileNotFoundError: a model or the data is not there.
      ValueError: parts do not fit each other, the message names both; or pairs that are evaluated
        are trained on.
    """
    axes = config.mesh
    mesh = make_mesh(axes.data, axes.fsdp, axes.tensor, axes.attn_dp)
    if problems := list(rows_problems(config, mesh.size)):
        raise ConfigError(problems)
    processes.assert_equal("config", digest_of(config))
    check_data_path(config)  # before a model is fetched
    folder = model_folder(policy or config.model.path)
    held_out = find_held_out(config, policy)
    # Logged before the data are prepared, and compared before anything is loaded together.
    inputs = _model_digests(config, folder, held_out)
    for name, digest in inputs.items():
        processes.assert_equal(name, digest)
    prepared = open_data(config, workdir, barrier)
    inputs["data set"] = prepared.fingerprint
    processes.assert_equal("data set", prepared.fingerprint)
    from_scratch = config.model.from_scratch and policy is None
    model, params = _open_policy(config, folder, mesh, from_scratch=from_scratch)
    _log_model(policy or config.model.path, model, params, mesh)
    warn_of_tiny(config, policy, held_out)
    tokenizer = load_tokenizer(folder)
    model = model.copy(config=with_tokenizer(model.config, tokenizer))
    if config.sampling.weights == "int8":
        quantised_paths(model)  # there must be some
    engine = _open_engine(config, folder, model, tokenizer, mesh, held_out)
    judges = [x.frozen for x in engine.asked_listeners(held_out=True) if x.style == "judge"]
    trained = () if policy else (config.data.train_split,)
    splits = (*trained, *config.evaluated_splits)
    log_without_votes(prepared, splits)
    images = image_policy(config, folder, prepared, model.config.vision, splits)
    encoder = pair_encoder(config, images, prepared, tokenizer, model.config, judges, splits)
    left_out = long_captions(config, encoder, prepared, splits)
    if policy is None:
        refuse_trained_pairs(config, prepared, left_out)
    warn_of_few(config, prepared, left_out)
    stop_ids = stop_token_ids(folder, tokenizer)
    sampling = SamplingConfig(
        config.max_completion_length, stop_ids, config.temperature, config.top_p
    )
    run = Run(
        config=config,
        folder=folder,
        engine=engine,
        tower_is_frozen=tower_is_frozen(params, config.model.freeze),
        sampling=sampling,
        prepared=prepared,
        encoder=encoder,
        left_out=left_out,
        truth=find_truth(prepared),
        input_digests=inputs,
    )
    return run, params


def _model_digests(config: Config, folder: Path, held_out: ListenerSpec | None) -> dict[str, str]:
    """Digests of the policy's folder and of the listeners', by name; each folder is read once."""
    folders = {"model": folder}
    for i, listener in enumerate(config.asked_listeners):
        folders[f"listener {i}"] = model_folder(listener.path or config.model.path)
    if held_out:
        folders["held-out listener"] = model_folder(held_out.path)
    digests = {path: folder_digest(path, announce=True) for path in dict.fromkeys(folders.values())}
    return {name: digests[path] for name, path in folders.items()}


def _open_policy(
    config: Config, folder: Path, mesh: Mesh, *, from_scratch: bool
) -> tuple[VisionLanguageModel, dict]:
    """The policy as it starts: a checkpoint's weights, or new ones of the same sizes."""
    dtype, param_dtype = (jnp.dtype(d) for d in (config.model.dtype, config.model.param_dtype))
    model, params = load_model(
        folder,
        dtype,
        param_dtype=param_dtype,
        mesh=mesh,
        remat=config.model.remat,
        attention=config.model.attention,
        seed=config.seed if from_scratch else None,
    )
    return model.copy(sharding=batch_sharding(mesh)), params


def _open_engine(
    config: Config,
    folder: Path,
    model: VisionLanguageModel,
    tokenizer: PreTrainedTokenizerBase,
    mesh: Mesh,
    held_out: ListenerSpec | None,
) -> Engine:
    """The policy, and the frozen models that listen to it and that it is held against."""
    frozen_models = FrozenModels(config, folder, mesh)
    parts = (config, frozen_models, tokenizer, model.config)
    listeners = open_listeners(*parts)
    compares = algorithm_of(config).needs_reference(config)
    reference = frozen_models.open(config.model.path) if compares else None
    measures = open_listener(held_out, *parts) if held_out else None
    answer_ids = answer_token_ids(tokenizer)
    return Engine(model, tokenizer, answer_ids, listeners, reference, mesh, config.seed, measures)


def _log_model(name: str, model: VisionLanguageModel, params: Mapping, mesh: Mesh) -> None:
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    size = f"{count / 1e9:.2f} B" if count >= 1e9 else f"{count / 1e6:.2f} M"
    devices = f"{mesh.size} {mesh.devices.flat[0].device_kind} device{'s' * (mesh.size > 1)}"
    logger.info(f"model: {name}, {size} parameters, on {devices}")
    if whole := undivided_parameters(model, mesh, "train"):
        names = ", ".join(whole)
        logger.info(f"note: the mesh does not divide {names}; devices hold copies of them")
