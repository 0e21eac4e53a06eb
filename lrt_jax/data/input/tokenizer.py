"""A checkpoint's tokenizer: opened, checked against the model, and asked for what it must know."""

import dataclasses
import re
from pathlib import Path

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from lrt_jax.data.input.chat_template import bounded, check_template
from lrt_jax.data.schema import FIRST, SECOND
from lrt_jax.models import read_config
from lrt_jax.models.api import ModelConfig
from lrt_jax.storage.disk import read_json, read_plainly

DIGITS = {FIRST: "1", SECOND: "2"}


def load_tokenizer(
    folder: str | Path, config: ModelConfig | None = None
) -> PreTrainedTokenizerBase:
    """Opens a checkpoint's tokenizer with its chat template, and checks that it fits the model.

    Args:
      folder: a Hugging Face folder on disk.
      config: the model's; by default read from the folder.

    Raises:
      FileNotFoundError: the folder, its tokenizer or its `config.json` is missing.
      ValueError: no chat template, a special token that is missing or is not one id, ids other than
        the model's, more tokens than the model has, or digits that are not one token each.
    """
    folder = Path(folder)
    if not any((folder / name).is_file() for name in ("tokenizer.json", "vocab.json")):
        raise FileNotFoundError(
            f"{folder}: neither tokenizer.json nor vocab.json; copy the tokenizer of the checkpoint"
        )
    config = config or read_config(folder)
    with read_plainly(folder, "copy the tokenizer's files of the checkpoint"):
        tokenizer = AutoTokenizer.from_pretrained(folder)
        _adopt_chat_template(tokenizer, folder)
        check_template(tokenizer.chat_template)
        with bounded():
            tokenizer.apply_chat_template([{"role": "user", "content": "?"}])  # as a trial
        _check_tokens(tokenizer, folder, config)
    return tokenizer


def _adopt_chat_template(tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Takes the processor's template, which knows images, over that of `tokenizer_config.json`."""
    older = folder / "chat_template.json"
    if older.is_file() and not (folder / "chat_template.jinja").is_file():
        tokenizer.chat_template = read_json(older)["chat_template"]
    if not tokenizer.chat_template:
        raise ValueError(f"{folder}: no chat template; add the checkpoint's chat_template.jinja")


def _check_tokens(tokenizer: PreTrainedTokenizerBase, folder: Path, config: ModelConfig) -> None:
    file = folder / "tokenizer.json"
    for token, wanted in config.special_tokens.items():
        ids = token_ids(tokenizer, token)
        if len(ids) != 1:
            raise ValueError(
                f"{file}: {token} is not a special token (it becomes {len(ids)} tokens); use the "
                "tokenizer that came with the checkpoint"
            )
        if wanted not in (None, ids[0]):
            raise ValueError(
                f"{file}: {token} is {ids[0]}, but {wanted} in config.json; tokenizer and "
                "model come from different checkpoints"
            )
    if len(tokenizer) > config.vocab_size:
        raise ValueError(
            f"{file}: {len(tokenizer):,} tokens, but the model has {config.vocab_size:,}"
        )
    try:
        answer_token_ids(tokenizer)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None


def stop_token_ids(folder: str | Path, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """Ids that end a completion: those of `generation_config.json`, else the tokenizer's end.

    Raises:
      ValueError: neither names one.
    """
    path = Path(folder) / "generation_config.json"
    with read_plainly(path, "take the one that came with the checkpoint"):
        ids = read_json(path).get("eos_token_id") if path.is_file() else None
    ids = tokenizer.eos_token_id if ids is None else ids
    if ids is None:
        raise ValueError(f"{path}: no eos_token_id here, and the tokenizer has no eos_token either")
    ids = tuple(ids) if isinstance(ids, list) else (ids,)
    if not ids or not all(type(x) is int and 0 <= x < len(tokenizer) for x in ids):
        raise ValueError(
            f"{path}: eos_token_id is {ids}, not of the tokenizer's {len(tokenizer):,} tokens; "
            "take the file that came with the checkpoint"
        )
    return ids


def answer_token_ids(tokenizer: PreTrainedTokenizerBase) -> tuple[int, int]:
    """Ids of "1" and "2", which are the two possible verdicts.

    Raises:
      ValueError: one of them is not a single token.
    """
    first, second = (token_ids(tokenizer, DIGITS[choice]) for choice in (FIRST, SECOND))
    if len(first) != 1 or len(second) != 1:
        raise ValueError(
            f'"1" and "2" must be one token each, this tokenizer makes {first} and {second} of them'
        )
    return first[0], second[0]


def with_tokenizer(config: ModelConfig, tokenizer: PreTrainedTokenizerBase) -> ModelConfig:
    """A model's config that knows which rows of its tables no token of the tokenizer has."""
    unspelled = set(range(config.vocab_size)) - set(tokenizer.get_vocab().values())
    return dataclasses.replace(config, unspelled_token_ids=tuple(sorted(unspelled)))


def neutralise(text: str, tokenizer: PreTrainedTokenizerBase) -> str:
    """Breaks text that the tokenizer would read as a special token: `<|im_end|>` to `< |im_end|>`.

    Captions come from strangers and traces from a policy; neither may end a turn or add an image.
    Only a blank is put in, so the text stays readable and nothing else of it changes.
    """
    added = sorted(tokenizer.get_added_vocab())  # all that have an id beside the vocabulary's
    special = re.compile("|".join(re.escape(token) for token in added) or r"(?!)")
    while (broken := special.sub(lambda m: f"{m[0][0]} {m[0][1:]}", text)) != text:
        text = broken
    return text


def token_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Ids of a text, special tokens in it included and none added."""
    return tokenizer.encode(text, add_special_tokens=False)
