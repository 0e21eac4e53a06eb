"""The models of a run, without their weights: sizes, special ids, and where these come from."""

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

from huggingface_hub import try_to_load_from_cache

from lrt_jax import assets
from lrt_jax.config import Config, PromptOptions
from lrt_jax.data.input.prompts import judge_prompt
from lrt_jax.data.input.tokenizer import (
    answer_token_ids,
    load_tokenizer,
    stop_token_ids,
    with_tokenizer,
)
from lrt_jax.models import ModelConfig, read_config
from lrt_jax.models.api import PublishedModel
from lrt_jax.models.families import published_models
from lrt_jax.models.folders import model_folder
from lrt_jax.storage.disk import expanded

TOKENIZERS = ("tokenizer.json", "vocab.json")
# Where neither files nor a table say it: as Qwen's tokenizer has them.
ASSUMED = {"answer_ids": (16, 17), "stop_ids": (151645, 151643), "judge_tail": 9}


@dataclasses.dataclass(frozen=True)
class KnownModel(PublishedModel):
    """What a plan needs to know of a model.

    Attributes:
      checkpoint: what it is called; roles that name the same share one copy.
      note: where that comes from; empty where it was read from the checkpoint itself.
    """

    checkpoint: str = ""
    note: str = ""


def find_model(
    path: str, prompts: PromptOptions, resized: Callable[[ModelConfig], ModelConfig]
) -> KnownModel:
    """Finds out about the model of a path; nothing is fetched.

    Args:
      path: as `model.path`.
      prompts: what is said to the models.
      resized: changes its sizes.

    Raises:
      FileNotFoundError: it is neither on this machine nor among the published ones.
    """
    folder = _local_folder(path)
    if folder is not None:
        known = _read(folder, prompts)
    elif path in (published := published_models()):
        known = _published(path, published[path], prompts)
    else:
        raise FileNotFoundError(
            f"{path}: neither a folder here nor one of the models whose sizes are known "
            f"({', '.join(published)}); a folder with its config.json is enough, such as "
            "--config.model.path=FOLDER"
        )
    return dataclasses.replace(known, config=resized(known.config))


def notes_of(models: list[KnownModel]) -> Iterator[str]:
    """What is to be said of where sizes come from."""
    yield from dict.fromkeys(model.note for model in models if model.note)


def paths_of(config: Config, *, reference: bool) -> list[str]:
    """Paths of the frozen models of a run: its listeners', held out or not, and the reference's."""
    paths = [x.path or config.model.path for x in config.evaluating_listeners]
    return paths + ([config.model.path] if reference else [])


def _local_folder(path: str) -> Path | None:
    """The folder of a model that is on this machine, be it in the Hub's cache."""
    if path in assets.BUILT_IN or Path(expanded(path)).is_dir():
        return model_folder(path)
    if path in published_models() or path.count("/") != 1:
        return None
    cached = try_to_load_from_cache(path, "config.json")
    return Path(cached).parent if isinstance(cached, str) else None


def _read(folder: Path, prompts: PromptOptions) -> KnownModel:
    """A model by its folder, which needs a config.json alone."""
    config, checkpoint = read_config(folder), str(folder)
    if not any((folder / name).is_file() for name in TOKENIZERS):
        note = f"{folder} has no tokenizer: ids and prompts are taken to be as Qwen2.5-VL's"
        return KnownModel(config, **ASSUMED, checkpoint=checkpoint, note=note)
    tokenizer = load_tokenizer(folder, config)
    tail = judge_prompt(tokenizer, "", options=prompts).tail_tokens
    return KnownModel(
        config=with_tokenizer(config, tokenizer),
        answer_ids=answer_token_ids(tokenizer),
        stop_ids=stop_token_ids(folder, tokenizer),
        judge_tail=len(tail),
        checkpoint=checkpoint,
    )


def _published(name: str, model: PublishedModel, prompts: PromptOptions) -> KnownModel:
    note = f"{name}: sizes as published, nothing was read"
    if prompts.judge_after is not None:
        note += f"; prompts.judge_after is taken to have {model.judge_tail} tokens"
    facts = {f.name: getattr(model, f.name) for f in dataclasses.fields(PublishedModel)}
    return KnownModel(**facts, checkpoint=name, note=note)
