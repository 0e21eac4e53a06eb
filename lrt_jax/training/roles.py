"""The frozen models of a run and what they are for: listeners and the reference."""

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax.numpy as jnp
from jax.sharding import Mesh
from transformers import PreTrainedTokenizerBase

from lrt_jax import assets
from lrt_jax.config import Config, ListenerSpec
from lrt_jax.config.earlier import present_form
from lrt_jax.models import SETTINGS, ModelConfig
from lrt_jax.models.folders import model_folder
from lrt_jax.rl.frozen import FrozenModel, open_frozen
from lrt_jax.rl.learner import split_frozen
from lrt_jax.rl.listener import Listener, make_listener
from lrt_jax.storage.disk import read_fields, read_plainly

logger = logging.getLogger(__name__)


def comes_from_tiny(path: str) -> bool:
    """Whether a path names the built-in model, or what a run has made of its weights."""
    folder = model_folder(path)
    settings = folder / SETTINGS
    if (
        built_in := folder in map(assets.built_in_model, assets.BUILT_IN)
    ) or not settings.is_file():
        return built_in
    remedy = "restore it, or export the model anew"
    with read_plainly(settings, remedy):
        origin = present_form(read_fields(settings, remedy)["trained_from"], "model")
        return origin["model"] in assets.BUILT_IN and not origin["from_scratch"]


def find_held_out(config: Config, policy: str | None) -> ListenerSpec | None:
    """The held-out listener; None where the config names none, or one that is not held out.

    A model that the run listens to or starts from measures nothing new, which the log says then.

    Args:
      config: of the run.
      policy: model that is evaluated in place of the config's.

    Raises:
      FileNotFoundError: there is no such model.
    """
    asked = config.held_out
    if asked is None:
        return None
    try:
        folder = model_folder(asked.path)
    except FileNotFoundError as error:
        remedy = "name the folder of a model or a Hub id, or None for no such listener"
        raise FileNotFoundError(f"eval.held_out_listener: {error}; {remedy}") from error
    roles = {x.path or config.model.path: "a listener of the run" for x in config.asked_listeners}
    if policy is not None:
        roles[policy] = "the model that is evaluated"
    if not config.model.from_scratch:
        roles[config.model.path] = "the model that the run starts from"
    for path, role in roles.items():
        if model_folder(path) == folder:
            logger.info(
                f"eval.held_out_listener: {asked.path} is {role}, so it measures nothing new and "
                "is not asked again"
            )
            return None
    return asked


def warn_of_tiny(config: Config, policy: str | None, held_out: ListenerSpec | None = None) -> None:
    """Warns where the built-in model, or what comes from it, meets other pictures than scenes.

    Args:
      config: of the run.
      policy: model that is evaluated in place of the config's.
      held_out: the held-out listener.
    """
    others = [x.source for x in config.data_sets if x.source != assets.KNOWN_SOURCE]
    from_scratch = config.model.from_scratch and policy is None
    models = {
        "policy": [] if from_scratch else [policy or config.model.path],
        "listener": [x.path or config.model.path for x in config.asked_listeners],
        "held-out listener": [held_out.path] if held_out else [],
    }
    roles = [role for role, paths in models.items() if any(map(comes_from_tiny, paths))]
    if others and roles:
        logger.warning(
            "the built-in model knows drawn shapes only, and is "
            f"{' and '.join(roles)} for pictures of {' and '.join(others)}: that shows that "
            "everything runs, and says nothing of the pictures; take a real model (preset 3b or "
            "7b, or model.path and listener.path)"
        )


def tower_is_frozen(params: Mapping, freeze: Sequence[str]) -> bool:
    """Whether no parameter of the vision tower is trained."""
    trainable, _ = split_frozen(params, freeze)
    return not any(path.startswith("vision/") for path in trainable)


class FrozenModels:
    """Opens each checkpoint once, however many roles it has.

    Args:
      config: of the run.
      policy_folder: what the policy starts from; its frozen tower may serve others.
      mesh: where parameters go.
    """

    def __init__(self, config: Config, policy_folder: Path, mesh: Mesh):
        self._config, self._policy_folder, self._mesh = config, policy_folder, mesh
        self._open: dict[Path, FrozenModel] = {}

    def open(self, path: str) -> FrozenModel:
        """The model of a path, see `model_folder`."""
        folder = model_folder(path)
        if folder not in self._open:
            options = self._config.model
            dtype = jnp.dtype(options.dtype)
            frozen = open_frozen(folder, dtype, mesh=self._mesh, attention=options.attention)
            same_tower = folder == self._policy_folder and tower_is_frozen(
                frozen.params, options.freeze
            )
            self._open[folder] = dataclasses.replace(frozen, same_tower=same_tower)
        return self._open[folder]


def open_listeners(
    config: Config, models: FrozenModels, tokenizer: PreTrainedTokenizerBase, policy: ModelConfig
) -> list[Listener]:
    """Whom the config names, or nobody where no one is to be asked.

    Args:
      config: of the run.
      models: of the run.
      tokenizer: the policy's.
      policy: sizes of the policy.

    Raises:
      ValueError: a listener that cannot read what it would be given.
    """
    return [open_listener(x, config, models, tokenizer, policy) for x in config.asked_listeners]


def open_listener(
    asked: ListenerSpec,
    config: Config,
    models: FrozenModels,
    tokenizer: PreTrainedTokenizerBase,
    policy: ModelConfig,
) -> Listener:
    """One listener, see `open_listeners`."""
    return make_listener(
        models.open(asked.path or config.model.path),
        asked,
        tokenizer,
        policy,
        prompts=config.prompts,
        completion_length=config.max_completion_length,
    )
