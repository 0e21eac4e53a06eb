"""From a config to the objects of a run: models, data, engine."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from lrt_jax import assets
from lrt_jax.config import Config
from lrt_jax.data.build import prepare
from lrt_jax.data.conversation import (
    PromptEncoder,
    answer_token_ids,
    judge_prompt,
    load_tokenizer,
    stop_token_ids,
)
from lrt_jax.data.images import read_image_policy
from lrt_jax.data.pipeline import EvalLoader, PairEncoder, TrainLoader, eval_loader, train_loader
from lrt_jax.data.tables import REPORT, PreparedSet
from lrt_jax.models import find_folder, load_model, read_config
from lrt_jax.parallel.mesh import make_mesh
from lrt_jax.rl.engine import Engine
from lrt_jax.rl.learner import LossOptions, split_frozen
from lrt_jax.rl.listener import FrozenModel, Listener
from lrt_jax.rl.rollout import Sampling
from lrt_jax.training.optimizer import make_optimizer
from lrt_jax.training.state import TrainState, initial_state
from lrt_jax.training.update import Updater

# A trace that is tokenised anew may come out longer than it was sampled.
RETOKENISED_SLACK = 1.25


@dataclasses.dataclass(frozen=True)
class Run:
    """What training and evaluation work with.

    Attributes:
      config: resolved.
      folder: HF folder that the policy starts from.
      params: the policy's, nested, in the layout of training.
      engine: policy and frozen models.
      tower_is_frozen: whether the vision tower stays as it is.
      sampling: of rollouts.
      prepared: the data.
      encoder: stored pairs to examples.
    """

    config: Config
    folder: Path
    params: Mapping
    engine: Engine
    tower_is_frozen: bool
    sampling: Sampling
    prepared: PreparedSet
    encoder: PairEncoder

    def train_loader(self) -> TrainLoader:
        data = self.config.data
        return train_loader(
            self.prepared,
            self.encoder,
            split=data.train_split,
            batch_size=self.config.batch_size // jax.process_count(),
            seed=self.config.seed,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
            num_threads=data.threads,
            num_workers=data.workers,
            drop_ties=data.target == "hard",
        )

    def eval_loader(self) -> EvalLoader:
        options = self.config.eval
        return eval_loader(
            self.prepared,
            self.encoder,
            split=options.split,
            batch_size=options.batch_size // jax.process_count(),
            limit=options.pairs or None,
            seed=0,  # the same pairs for every seed, so that runs can be compared in pairs
            process_index=jax.process_index(),
            process_count=jax.process_count(),
            num_threads=self.config.data.threads,
        )


def model_folder(path: str) -> Path:
    """Folder of a model: `tiny`, an HF folder, a run's workdir, or a Hub id."""
    if path == assets.TINY:
        return assets.tiny_model()
    exported = Path(path).expanduser() / "export"
    return exported if (exported / "config.json").is_file() else find_folder(path)


def open_data(config: Config, workdir: Path, say: Callable[[str], None]) -> PreparedSet:
    """A prepared set as it is; a raw folder is prepared into `WORKDIR/data`, once."""
    path = Path(config.data.path).expanduser()
    if (path / REPORT).is_file():
        return PreparedSet(path)
    report = prepare(
        config.data.source,
        path,
        workdir / "data",
        split_fractions=dict(config.data.split_fractions) or None,
        on_bad_example=config.data.on_bad_example,
        say=say,
    )
    splits = ", ".join(f"{name} {split['pairs']:,}" for name, split in report.splits.items())
    say(
        f"data: {report.groups:,} captions, {report.images:,} images, {report.pairs:,} pairs "
        f"({splits}); {report.ties:,} ties, {report.dropped:,} images dropped"
    )
    return PreparedSet(workdir / "data")


def open_run(
    config: Config,
    workdir: Path,
    say: Callable[[str], None] = print,
    *,
    policy: str | None = None,
) -> Run:
    """Loads everything that a config names.

    Args:
      config: resolved.
      workdir: raw data are prepared into it.
      say: told what was loaded, a line each.
      policy: model to take for the policy instead of the config's, which stays the listener's and
        the reference's.

    Raises:
      FileNotFoundError: a model or the data is not there.
      ValueError: parts do not fit each other; the message names both.
    """
    prepared = open_data(config, workdir, say)
    mesh = make_mesh(config.mesh.data, config.mesh.fsdp, config.mesh.tensor)
    _check_rows(config, mesh)
    folder = model_folder(policy or config.model.path)
    tokenizer = load_tokenizer(folder)
    dtype = jnp.dtype(config.model.dtype)
    model, params = load_model(
        folder,
        dtype,
        param_dtype=jnp.dtype(config.model.param_dtype),
        mesh=mesh,
        remat=config.model.remat,
    )
    say(f"model: {folder.name}, {_count(params)} parameters, on {mesh.size} {_device_kind(mesh)}")
    frozen_models = _FrozenModels(config, folder, mesh)
    listeners = _listeners(config, frozen_models)
    reference = frozen_models.open(config.model.path) if config.loss.beta else None
    engine = Engine(
        model, tokenizer, answer_token_ids(tokenizer), listeners, reference, mesh, config.seed
    )
    return Run(
        config=config,
        folder=folder,
        params=params,
        engine=engine,
        tower_is_frozen=tower_is_frozen(params, config.model.freeze),
        sampling=Sampling(
            max_tokens=config.max_completion_length,
            stop_ids=stop_token_ids(folder, tokenizer),
            temperature=config.temperature,
            top_p=config.top_p,
        ),
        prepared=prepared,
        encoder=_pair_encoder(config, folder, engine),
    )


def make_learner(run: Run) -> tuple[TrainState, Updater]:
    """The state before the first step, which takes over the run's parameters, and what moves it."""
    config, engine = run.config, run.engine
    iterations = config.loss.num_iterations
    optimizer = make_optimizer(config.optimizer, config.steps * iterations)
    state = initial_state(run.params, config.model.freeze, optimizer, engine.mesh)
    return state, Updater(engine.model, optimizer, _loss_options(config), iterations, engine.mesh)


def _loss_options(config: Config) -> LossOptions:
    loss = config.loss
    return LossOptions(
        loss_type=loss.type,
        beta=loss.beta,
        epsilon=loss.epsilon,
        epsilon_high=loss.epsilon_high or None,
        delta=loss.delta or None,
        importance_sampling_level=loss.level,
        temperature=config.temperature,
        microbatches=loss.microbatches,
        sampler_cap=loss.sampler_cap or None,
    )


class _FrozenModels:
    """Opens each checkpoint once, however many roles it has."""

    def __init__(self, config: Config, policy_folder: Path, mesh: Mesh):
        self._config, self._policy_folder, self._mesh = config, policy_folder, mesh
        self._open: dict[Path, FrozenModel] = {}

    def open(self, path: str) -> FrozenModel:
        folder = model_folder(path)
        if folder not in self._open:
            dtype = jnp.dtype(self._config.model.dtype)
            model, params = load_model(folder, dtype, mesh=self._mesh)
            tokenizer = load_tokenizer(folder)
            self._open[folder] = FrozenModel(
                checkpoint=str(folder),
                model=model,
                params=params,
                tokenizer=tokenizer,
                answer_ids=answer_token_ids(tokenizer),
                same_tower=folder == self._policy_folder
                and tower_is_frozen(params, self._config.model.freeze),
            )
        return self._open[folder]


def tower_is_frozen(params: Mapping, freeze: Sequence[str]) -> bool:
    """Whether no parameter of the vision tower is trained."""
    trainable, _ = split_frozen(params, freeze)
    return not any(path.startswith("vision/") for path in trainable)


def _listeners(config: Config, frozen_models: _FrozenModels) -> list[Listener]:
    if not (config.uses_listener or config.eval.listener):
        return []
    first = {
        "path": config.listener.path,
        "style": config.listener.style,
        "share": config.listener.share,
    }
    listeners = []
    for asked in (first, *config.listener.others):
        frozen = frozen_models.open(asked.get("path") or config.model.path)
        style = asked.get("style", config.listener.style)
        tail = judge_prompt(frozen.tokenizer, "").tail_tokens if style == "judge" else ()
        width = int(config.max_completion_length * RETOKENISED_SLACK) + len(tail) + 1
        listeners.append(Listener(frozen, style, asked.get("share", 1.0), tail, width))
    _check_continuations(config, listeners, frozen_models)
    return listeners


def _check_continuations(config: Config, listeners, frozen_models: _FrozenModels) -> None:
    """A `continue` listener reads the policy's own tokens, so they must mean the same to both."""
    policy = load_tokenizer(model_folder(config.model.path))
    for listener in listeners:
        theirs = listener.frozen.tokenizer
        if listener.style == "continue" and theirs.get_vocab() != policy.get_vocab():
            raise ValueError(
                f"listener {listener.frozen.checkpoint}: style 'continue' needs the policy's "
                f"tokenizer ({config.model.path}), and it has another; use listener.style=judge"
            )


def _pair_encoder(config: Config, folder: Path, engine: Engine) -> PairEncoder:
    data, vision = config.data, engine.model.config.vision
    judges = [x.frozen for x in engine.listeners if x.style == "judge"]
    _check_towers(folder, [x.frozen for x in engine.listeners])
    prompts = [
        PromptEncoder(j.tokenizer, j.model.config, "judge", data.judge_tokens, data.max_patches)
        for j in judges
    ]
    return PairEncoder(
        policy=read_image_policy(folder, data.max_patches),
        vision=vision,
        prompt=PromptEncoder(
            engine.tokenizer, engine.model.config, "reason", data.prompt_tokens, data.max_patches
        ),
        listener_prompts=tuple(prompts),
    )


def _check_towers(folder: Path, frozen: list[FrozenModel]) -> None:
    """All models are shown the same patches."""
    cut = ("patch_size", "merge_size", "window_size", "in_channels")
    own = read_config(folder).vision
    for other in frozen:
        for name in cut:
            if getattr(other.model.config.vision, name) != getattr(own, name):
                raise ValueError(
                    f"{other.checkpoint}: {name} of its vision tower differs from that of {folder}"
                )


def _check_rows(config: Config, mesh: Mesh) -> None:
    rows = {"batch_size": config.batch_size, "eval.batch_size": config.eval.batch_size}
    for name, count in rows.items():
        if count % mesh.size:
            raise ValueError(f"{name}={count} does not divide over {mesh.size} devices")
    part = config.batch_size // config.loss.microbatches
    if part % mesh.size:
        raise ValueError(
            f"loss.microbatches={config.loss.microbatches} leaves {part} pairs for "
            f"{mesh.size} devices; batch_size / microbatches must be a multiple of the devices"
        )


def _count(params) -> str:
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    return f"{count / 1e9:.2f} B" if count >= 1e9 else f"{count / 1e6:.2f} M"


def _device_kind(mesh: Mesh) -> str:
    kind = mesh.devices.flat[0].device_kind
    return f"{kind} device" + ("s" if mesh.size > 1 else "")
