"""The frozen models of a run and what they are for: listeners and the reference."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax.numpy as jnp
from jax.sharding import Mesh
from transformers import PreTrainedTokenizerBase

from lrt_jax import assets
from lrt_jax.config import Config, ListenerSpec
from lrt_jax.config.earlier import present_form
from lrt_jax.data.input.prompts import judge_prompt
from lrt_jax.data.input.tokenizer import answer_token_ids, load_tokenizer, with_tokenizer
from lrt_jax.models import SETTINGS, ModelConfig, find_folder, load_model
from lrt_jax.parallel.collectives import batch_sharding
from lrt_jax.rl.frozen import FrozenModel
from lrt_jax.rl.learner import split_frozen
from lrt_jax.rl.listener import Listener
from lrt_jax.storage.disk import expanded, read_fields, read_plainly

logger = logging.getLogger(__name__)

# A trace that is tokenised anew may come out longer than it was sampled.
RETOKENISED_SLACK = 1.25


def model_folder(path: str) -> Path:
    """Folder of a model: `tiny`, an HF folder, a run's workdir, or a Hub id.

    Raises:
      FileNotFoundError: there is none.
    """
    if path in assets.BUILT_IN:
        return assets.built_in_model(path)
    workdir = Path(expanded(path))
    if (workdir / "export" / "config.json").is_file():
        return (workdir / "export").resolve()
    if (workdir / "checkpoints").is_dir():
        raise FileNotFoundError(
            f"{path}: a run that has not ended and so has exported no model; "
            f"python -m lrt_jax.export --checkpoint={path} --output=FOLDER makes one"
        )
    return find_folder(path).resolve()


def model_name(path: str) -> str:
    """What to call the model of a path elsewhere: its Hub id, `tiny`, or its folder's name."""
    folder = Path(expanded(path))
    return folder.resolve().name if folder.is_dir() else path


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
            model, params = load_model(
                folder, jnp.dtype(options.dtype), mesh=self._mesh, attention=options.attention
            )
            tokenizer = load_tokenizer(folder)
            self._open[folder] = FrozenModel(
                checkpoint=str(folder),
                model=model.copy(
                    config=with_tokenizer(model.config, tokenizer),
                    sharding=batch_sharding(self._mesh),
                ),
                params=params,
                tokenizer=tokenizer,
                answer_ids=answer_token_ids(tokenizer),
                same_tower=folder == self._policy_folder
                and tower_is_frozen(params, self._config.model.freeze),
            )
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
    frozen = models.open(asked.path or config.model.path)
    tail = ()
    if asked.style == "judge":
        tail = judge_prompt(frozen.tokenizer, "", options=config.prompts).tail_tokens
    width = int(config.max_completion_length * RETOKENISED_SLACK) + len(tail) + 1
    listener = Listener(frozen, asked.style, asked.share, tail, width, asked.drop_verdicts)
    _check_tower(frozen, policy)
    _check_tokens(listener, tokenizer)
    return listener


def _check_tokens(listener: Listener, policy: PreTrainedTokenizerBase) -> None:
    """A `continue` listener reads the policy's own tokens, so they must mean the same to both."""
    theirs = listener.frozen.tokenizer
    if listener.style == "continue" and theirs.get_vocab() != policy.get_vocab():
        raise ValueError(
            f"listener {listener.frozen.checkpoint}: style 'continue' needs the policy's "
            "tokenizer, and it has another; use listener.style=judge"
        )


def _check_tower(frozen: FrozenModel, policy: ModelConfig) -> None:
    """All models are shown the same patches."""
    theirs, own = (
        {"model_type": x.model_type, **x.vision.sizes} for x in (frozen.model.config, policy)
    )
    for name, asked in own.items():
        if theirs.get(name) != asked:
            raise ValueError(
                f"listener {frozen.checkpoint}: {name} of its vision tower is {theirs.get(name)}, "
                f"the policy's is {asked}; they must be shown the same patches"
            )
