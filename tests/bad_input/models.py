"""Model folders, tokenizers and listeners that do not fit."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from lrt_jax import assets
from lrt_jax.data.input.tokenizer import load_tokenizer, stop_token_ids
from lrt_jax.models import load_model
from lrt_jax.models.folders import model_folder
from tests.bad_input.prepared_sets import run
from tests.bad_input.registry import kind

MODELS = "Models"


def model(title: str, edit: Callable[[Path], None], opens: Callable = load_model):
    """The built-in model with something wrong in its folder."""

    def case(folder):
        shutil.copytree(assets.tiny_model(), folder / "model")
        edit(folder / "model")
        opens(folder / "model")

    kind(MODELS, title)(case)


def edit_json(name: str, change: Callable[[dict], None]) -> Callable[[Path], None]:
    def edit(folder):
        content = json.loads((folder / name).read_text())
        change(content)
        (folder / name).write_text(json.dumps(content))

    return edit


def edit_tensors(change: Callable[[dict], None]) -> Callable[[Path], None]:
    def edit(folder):
        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})

    return edit


def only_pickles(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def cut(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100_000])


def without_tokenizer(folder: Path) -> None:
    for name in ("tokenizer.json", "vocab.json"):
        (folder / name).unlink()


def without_special_token(folder: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        path = folder / name
        path.write_text(path.read_text().replace("<|vision_start|>", "<|vision_begin|>"))


def without_digit(folder: Path) -> None:
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text())
    content["normalizer"] = {"type": "Replace", "pattern": {"String": "1"}, "content": "one and"}
    path.write_text(json.dumps(content))
    general = {"tokenizer_class": "PreTrainedTokenizerFast"}  # reads all of that file
    edit_json("tokenizer_config.json", lambda c: c.update(general))(folder)


LOOPS = "{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}"
NORM = "model.norm.weight"
model("no config.json", lambda folder: (folder / "config.json").unlink())
model("another architecture", edit_json("config.json", lambda c: c.update(model_type="qwen3")))
model("a tensor that is missing", edit_tensors(lambda t: t.pop(NORM)))
model("a tensor too many", edit_tensors(lambda t: t.update(extra=np.zeros(1, np.float32))))
model(
    "a tensor of another shape",
    edit_tensors(lambda t: t.update({NORM: np.zeros(7, np.float32)})),
)
model("a tensor of whole numbers", edit_tensors(lambda t: t.update({NORM: np.zeros(96, np.int32)})))
model("a tensor with a NaN", edit_tensors(lambda t: t.update({NORM: np.full(96, np.nan, "f4")})))
model("sizes that cannot be", edit_json("config.json", lambda c: c.update(num_attention_heads=5)))
model("a size that is no number", edit_json("config.json", lambda c: c.update(vocab_size="many")))
model(
    "a hundred million layers",
    edit_json("config.json", lambda c: c.update(num_hidden_layers=10**8)),
)
model("a number in quotes", edit_json("config.json", lambda c: c.update(rope_theta="1e6")))
model("a config of something else", lambda f: (f / "config.json").write_text("[]"))
model("weights cut off in the middle", cut)
model("pickled weights", only_pickles)
model(
    "no tokenizer",
    without_tokenizer,
    load_tokenizer,
)
model(
    "a tokenizer file cut off",
    lambda f: (f / "tokenizer.json").write_text('{"version": '),
    load_tokenizer,
)
model(
    "a chat template that is none",
    lambda f: (f / "chat_template.jinja").write_text("{% if messages"),
    load_tokenizer,
)
model(
    "a chat template that does not end",
    lambda f: (f / "chat_template.jinja").write_text(LOOPS),
    load_tokenizer,
)
model(
    "a chat template that asks for all memory",
    lambda f: (f / "chat_template.jinja").write_text("{{ 'a' * 99999999999 }}"),
    load_tokenizer,
)
model(
    "an end token that there is not",
    edit_json("generation_config.json", lambda c: c.update(eos_token_id=99_999)),
    lambda folder: stop_token_ids(folder, load_tokenizer(folder)),
)
model("no chat template", lambda f: (f / "chat_template.jinja").unlink(), load_tokenizer)
model("a special token that is missing", without_special_token, load_tokenizer)
model(
    "a tokenizer of another checkpoint",
    edit_json("config.json", lambda c: c.update(image_token_id=7)),
    load_tokenizer,
)
model(
    "more tokens than the model has",
    edit_json("config.json", lambda c: c.update(vocab_size=1020)),
    load_tokenizer,
)
model("answers that are not one token each", without_digit, load_tokenizer)


@kind(MODELS, "a model in a bucket")
def _(_):
    load_model("gs://bucket/model")


@kind(MODELS, "a run that has not ended")
def _(folder):
    (folder / "checkpoints").mkdir()
    model_folder(str(folder))


def listener(title: str, change: Callable[[Path], None]):
    def edit(folder):
        shutil.copytree(assets.tiny_model(), folder / "other")
        change(folder / "other")

    run(title, edit, MODELS, **{"listener.path": "other"})


def other_vocabulary(folder: Path) -> None:
    tokenizer = load_tokenizer(folder)
    tokenizer.add_tokens(["<|new|>"])
    tokenizer.save_pretrained(folder)
    edit_json("config.json", lambda c: c.update(vocab_size=c["vocab_size"] + 8))(folder)
    edit_tensors(
        lambda t: t.update(
            {"model.embed_tokens.weight": np.pad(t["model.embed_tokens.weight"], ((0, 8), (0, 0)))}
        )
    )(folder)


listener("a listener with another vocabulary", other_vocabulary)
