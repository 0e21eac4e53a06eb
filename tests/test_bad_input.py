"""Bad input, kind by kind, and what is said of it: `docs/bad_input.md` is made here.

LRT_WRITE_DOCS=1 python -m pytest tests/test_bad_input.py
"""

import dataclasses
import io
import json
import os
import re
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file

from lrt_jax import assets
from lrt_jax.commands import config_flag_problems, make_workdir
from lrt_jax.config import Config, default_config
from lrt_jax.data.build import prepare
from lrt_jax.data.conversation import load_tokenizer
from lrt_jax.data.images import decode
from lrt_jax.data.lessons import LessonBook, LessonEncoder, bare_answers
from lrt_jax.data.scenes.options import ScenesOptions
from lrt_jax.data.scenes.write import write_scenes
from lrt_jax.data.schema import TIE
from lrt_jax.data.sources import read_source
from lrt_jax.data.tables import PreparedSet
from lrt_jax.disk import new_folder
from lrt_jax.models import load_model
from lrt_jax.parallel.mesh import make_mesh
from lrt_jax.reporting.metrics import MetricsWriter
from lrt_jax.rl.rewards import Verdicts, combine
from lrt_jax.training import setup
from lrt_jax.training.checkpoint import Checkpointer
from lrt_jax.training.files import check_same_config, check_same_inputs, record_config
from lrt_jax.training.roles import model_folder
from tests.training.small_run import tiny_config, write_hpdv2
from tests.training.test_supervised import RECORD

PAGE = Path(__file__).parents[1] / "docs" / "bad_input.md"
Case = Callable[[Path], object]
HALF_WRITTEN = r"^\.|tmp|part-"  # names of what is not yet whole
CASES: dict[str, dict[str, Case]] = {}


def kind(section: str, title: str):
    """Registers a case: a function of a folder that meets bad input."""

    def register(case: Case) -> Case:
        CASES.setdefault(section, {})[title] = case
        return case

    return register


# ---------------------------------------------------------------------------- configs

FLAGS = "Flags and configs"


def flag(title: str, *arguments: str):
    def case(_):
        raise ValueError("; ".join(line for _, line in config_flag_problems(arguments)))

    kind(FLAGS, title)(case)


flag("a config file that is not there", "--config=configs/imagreward.py")
flag("a field that there is not", "--config.optimizer.learningrate=1e-3")
flag("a word for a number", "--config.steps=many")


def config(title: str, **changes):
    def case(_):
        values = default_config()
        values.data.path = "data"
        values = values.to_dict()
        for name, value in changes.items():
            *parents, field = name.split(".")
            part = values
            for parent in parents:
                part = part[parent]
            part[field] = value
        Config.parse(values)

    kind(FLAGS, title)(case)


config("a field of another type", steps="100")
config("a name that is none of those known", **{"algorithm": "ppo"})
config("several at once", **{"steps": 0, "loss.type": "dpo", "batch_sise": 4})
config("no data", **{"data.path": ""})
config("a group of one", group_size=1)
config("no reward", **{"rewards.format": 0.0, "rewards.accuracy": 0.0, "listener.weight": 0.0})
config("microbatches that do not divide", **{"batch_size": 10, "loss.microbatches": 4})
config("a batch that does not divide over the mesh", **{"mesh.fsdp": 12})
config("an odd evaluation batch", **{"eval.batch_size": 5})
config("no place for words", **{"data.prompt_tokens": 512})
config("patches that make no window", **{"data.max_patches": 1000})
config("shares that are not one", **{"data.split_fractions": {"train": 0.9, "test": 0.2}})
config("a learning rate that is no number", **{"optimizer.learning_rate": float("nan")})
config("cispo without its cap", **{"loss.type": "cispo"})
config("nothing to imitate", **{"algorithm": "sft"})
config("fresh weights and GRPO", **{"model.fresh": True})
config(
    "more captions than can be drawn",
    **{"data.source": "scenes", "data.path": "", "data.scenes.test": 9999},
)


# ---------------------------------------------------------------------------- raw data

RAW = "Data sets as published"


def hpd(title: str, **changes):
    """A record of HPDv2's training file with a field changed, or left out where it is None."""
    record = {
        "prompt": "a cat",
        "image_path": ["0.png", "1.png"],
        "human_preference": [1, 0],
    }

    def case(folder):
        fields = {name: x for name, x in (record | changes).items() if x is not None}
        (folder / "train.json").write_text(json.dumps([record, fields]))
        read_source("hpdv2", folder)

    kind(RAW, title)(case)


@kind(RAW, "a source that there is not")
def _(folder):
    read_source("hpd2", folder)


@kind(RAW, "a folder that is not there")
def _(folder):
    read_source("hpdv2", folder / "nowhere")


@kind(RAW, "a folder of something else")
def _(folder):
    read_source("imagereward", folder)


@kind(RAW, "a file cut off in the middle")
def _(folder):
    (folder / "train.json").write_text('[{"prompt": "a c')
    read_source("hpdv2", folder)


@kind(RAW, "JSON that is no list")
def _(folder):
    (folder / "train.json").write_text("{}")
    read_source("hpdv2", folder)


@kind(RAW, "no records")
def _(folder):
    (folder / "train.json").write_text("[]")
    read_source("hpdv2", folder)


@kind(RAW, "a parquet file that is none")
def _(folder):
    (folder / "metadata-train.parquet").write_bytes(b"PAR1 no")
    read_source("imagereward", folder)


hpd("a field that is missing", human_preference=None)
hpd("a field of another type ", prompt=7)
hpd("an empty caption", prompt="  ")
hpd("negative votes", human_preference=[-1, 1])
hpd("votes that are no numbers", human_preference=[float("nan"), 0])
hpd("three images in a pair", image_path=["0.png", "1.png", "2.png"])


@kind(RAW, "an image with two ranks")
def _(folder):
    pair = {"group_id": 1, "prompt": "a cat", "image_0": "a", "image_1": "b", "rank_0": 1}
    other = pair | {"image_1": "c", "rank_0": 2, "rank_1": 3}
    lines = map(json.dumps, (pair | {"rank_1": 2}, other))
    (folder / "pairs.jsonl").write_text("\n".join(lines))
    read_source("imagereward", folder)


@kind(RAW, "a group with two captions")
def _(folder):
    pair = {"group_id": 1, "image_0": "a", "image_1": "b", "rank_0": 1, "rank_1": 2}
    lines = (json.dumps(pair | {"prompt": prompt}) for prompt in ("a cat", "a dog"))
    (folder / "pairs.jsonl").write_text("\n".join(lines))
    read_source("imagereward", folder)


@kind(RAW, "scenes without their ground truth")
def _(folder):
    write_scenes(folder / "scenes", ScenesOptions(train=1, validation=1, test=0))
    (folder / "scenes" / "truth.jsonl").unlink()
    read_source("scenes", folder / "scenes")


# ---------------------------------------------------------------------------- images

IMAGES = "Images"


def png(width: int, height: int) -> bytes:
    file = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def image(title: str, data: bytes | None):
    """One image of a pair is bad; the other is not."""

    def case(folder):
        record = {"prompt": "a cat", "image_path": ["0.png", "1.png"], "human_preference": [1, 0]}
        (folder / "in" / "train").mkdir(parents=True)
        (folder / "in" / "train.json").write_text(json.dumps([record]))
        (folder / "in" / "train" / "0.png").write_bytes(png(40, 30))
        if data is not None:
            (folder / "in" / "train" / "1.png").write_bytes(data)
        prepare("hpdv2", folder / "in", folder / "out")

    kind(IMAGES, title)(case)


image("missing", None)
image("empty", b"")
image("not an image", b"<html>404</html>")
image("truncated", png(40, 30)[:1000])
image("smaller than a patch", png(10, 30))
image("far too long", png(2900, 14))
image("the other image again, so that no pair is left", png(40, 30))


@kind(IMAGES, "a decompression bomb")
def _(_):
    header = png(1, 1)
    size = b"IHDR" + (30_000).to_bytes(4, "big") * 2 + header[24:29]
    decode(header[:12] + size + zlib.crc32(size).to_bytes(4, "big") + header[33:], "bomb.png")


# ---------------------------------------------------------------------------- prepared sets

PREPARED = "Prepared sets and runs on them"


def small(folder: Path, **options) -> Path:
    prepare("hpdv2", write_hpdv2(folder / "in"), folder / "data", **options)
    return folder / "data"


@kind(PREPARED, "a folder that is no prepared set")
def _(folder):
    PreparedSet(folder)


@kind(PREPARED, "a set of an older layout")
def _(folder):
    report = small(folder) / "build_report.json"
    report.write_text(report.read_text().replace('"version": "2', '"version": "1'))
    PreparedSet(folder / "data")


@kind(PREPARED, "an output that holds something else")
def _(folder):
    (folder / "data").mkdir()
    (folder / "data" / "letter.txt").write_text("dear")
    small(folder)


@kind(PREPARED, "an output made with other settings")
def _(folder):
    small(folder)
    prepare("hpdv2", folder / "in", folder / "data", seed=1)


def run(title: str, edit: Callable[[Path], None] = lambda folder: None, **changes):
    """Opens a run on a small prepared set."""

    def case(folder):
        data = small(folder, split_fractions={"train": 0.7, "validation": 0.3})
        edit(folder)
        options = {"data.split_fractions": {}} | {
            name: str(folder / value) if name.endswith("path") else value
            for name, value in changes.items()
        }
        opened, _ = setup.open_run(tiny_config(data, **options), folder / "run", lambda line: None)
        opened.train_loader()

    kind(PREPARED, title)(case)


run("a split that there is not", **{"eval.split": "test"})
run("fewer pairs than a batch", batch_size=64)
run("another source than the set's", **{"data.source": "imagereward"})
run("captions that do not fit", **{"data.prompt_tokens": 130})
run("a batch that does not divide over the devices", batch_size=7)
run("a model that is not there", **{"model.path": "nowhere"})
run("data that are not there", **{"data.path": "nowhere"})


# ---------------------------------------------------------------------------- lessons

LESSONS = "Completions to imitate"


def lessons(title: str, *lines: str):
    def case(folder):
        (folder / "lessons.jsonl").write_text("\n".join(lines))
        book = LessonBook(str(folder / "lessons.jsonl"))
        LessonEncoder(load_tokenizer(assets.tiny_model()), 2, 1, 8, book).check([RECORD])

    kind(LESSONS, title)(case)


LINE = {"pair": RECORD.uid, "swapped": False, "completion": "<think></think>"}
lessons("a line that is no JSON", '{"pair": ')
lessons("a field that is missing", json.dumps({"pair": RECORD.uid}))
lessons("a field of another type", json.dumps(LINE | {"swapped": "no"}))
lessons("a pair in one order only", json.dumps(LINE | {"completion": "yes"}))
lessons(
    "one that is too long",
    *(json.dumps(LINE | {"swapped": x, "completion": "a long story " * 8}) for x in (False, True)),
)


@kind(LESSONS, "the answer of a tie")
def _(_):
    bare_answers(dataclasses.replace(RECORD, label=TIE), False)


# ---------------------------------------------------------------------------- models

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
model("weights cut off in the middle", cut)
model("pickled weights", only_pickles)
model(
    "no tokenizer",
    without_tokenizer,
    load_tokenizer,
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
    edit_json("config.json", lambda c: c.update(vocab_size=1000)),
    load_tokenizer,
)
model("answers that are not one token each", without_digit, load_tokenizer)


@kind(MODELS, "a run that has not ended")
def _(folder):
    (folder / "checkpoints").mkdir()
    model_folder(str(folder))


def listener(title: str, change: Callable[[Path], None]):
    def edit(folder):
        shutil.copytree(assets.tiny_model(), folder / "other")
        change(folder / "other")

    run(title, edit, **{"listener.path": "other"})
    CASES[MODELS][title] = CASES[PREPARED].pop(title)


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


# ---------------------------------------------------------------------------- runs

RUNS = "Going on, and numbers"


@kind(RUNS, "a workdir of another run")
def _(folder):
    record_config(tiny_config("data"), {}, folder)
    check_same_config(tiny_config("data", group_size=2), folder)


@kind(RUNS, "a harmless change")
def _(folder):
    record_config(tiny_config("data"), {}, folder)
    check_same_config(tiny_config("data", checkpoint_every=7), folder)


@kind(RUNS, "a model that changed under a run")
def _(folder):
    record_config(tiny_config("data"), {"model": "1"}, folder)
    check_same_inputs({"model": "2"}, folder)


@kind(RUNS, "a checkpoint that there is not")
def _(folder):
    with Checkpointer(folder, 1) as checkpointer:
        checkpointer.find(40)


@kind(RUNS, "a workdir that is removed under a run")
def _(folder):
    with MetricsWriter(folder / "run") as metrics:
        shutil.rmtree(folder / "run")
        metrics.write(1, {"loss": 1.0})


@kind(RUNS, "a disk that is full, met by a library that says so in its own words")
def _(folder):
    with new_folder(folder / "data"):
        raise RuntimeError("write() failed: No space left on device; at byte 4096")


@kind(RUNS, "a workdir that is no folder here")
def _(_):
    make_workdir("gs://bucket/run")


@kind(RUNS, "a mesh of more devices than there are")
def _(_):
    make_mesh(fsdp=64)


@kind(RUNS, "a listener that gives no number")
def _(_):
    heard = jnp.array([[0.3, jnp.nan]])
    combine(
        Verdicts(np.ones((1, 2), bool), np.zeros((1, 2), np.int8), np.asarray(heard), np.ones(1)),
        {"format": 1.0, "listener": 0.5},
    )


# ---------------------------------------------------------------------------- the page


def told(case: Case, folder: Path) -> str:
    """The message, with nothing of this machine in it."""
    with pytest.raises((ValueError, OSError, KeyError, FloatingPointError)) as caught:
        case(folder)
    notes = getattr(caught.value, "__notes__", [])
    text = " ".join([str(caught.value), *notes]).replace(str(folder), "DIR")
    return re.sub(r"\s+", " ", text).strip()


def test_every_kind_is_told_as_the_page_says(tmp_path, monkeypatch):
    monkeypatch.setattr(setup, "make_mesh", lambda *_: make_mesh(devices=jax.devices()[:2]))
    lines = [HEAD]
    for section, cases in CASES.items():
        lines += [f"\n## {section}\n", "| what is wrong | what is said |", "|---|---|"]
        for number, (title, case) in enumerate(cases.items()):
            folder = tmp_path / f"{section}-{number}".replace(" ", "-")
            folder.mkdir()
            lines.append(f"| {title.strip()} | {told(case, folder).replace('|', chr(92) + '|')} |")
            left = [path.name for path in folder.rglob("*") if re.search(HALF_WRITTEN, path.name)]
            assert not left, f"{title} leaves {left}"
    page = "\n".join(lines) + "\n"
    if os.environ.get("LRT_WRITE_DOCS"):
        PAGE.write_text(page)
    assert PAGE.read_text() == page
    assert sum(map(len, CASES.values())) >= 40


HEAD = """# What is said of bad input

Made by `tests/test_bad_input.py`, which meets every kind here and checks the message: file, record
or field, and remedy. `DIR` is the folder of the case. Nothing here leaves a half-written file."""
