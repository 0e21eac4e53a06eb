"""Prepared sets, runs on them, and completions to imitate."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

from lrt_jax import assets
from lrt_jax.data.dataset.prepared_set import VERSION, PreparedSet
from lrt_jax.data.input.demonstrations import DemonstrationEncoder, DemonstrationFile, bare_answers
from lrt_jax.data.input.tokenizer import load_tokenizer
from lrt_jax.data.preparation.prepare import prepare
from lrt_jax.data.schema import TIE
from lrt_jax.training import setup
from tests.algorithms.test_sft import RECORD
from tests.bad_input.registry import kind
from tests.training.small_run import tiny_config, write_hpdv2

PREPARED = "Prepared sets and runs on them"


def small(folder: Path, **options) -> Path:
    options = {"near_duplicates": "keep"} | options
    prepare("hpdv2", write_hpdv2(folder / "in"), folder / "data", **options)
    return folder / "data"


@kind(PREPARED, "a folder that is no prepared set")
def _(folder):
    PreparedSet(folder)


@kind(PREPARED, "a set of an older layout")
def _(folder):
    report = small(folder) / "build_report.json"
    report.write_text(report.read_text().replace(VERSION, "1.0.0"))
    PreparedSet(folder / "data")


@kind(PREPARED, "a shard that is another")
def _(folder):
    (shard,) = (small(folder) / "images").glob("*.array_record-*")
    shard.write_bytes(shard.read_bytes()[:-1] + b"?")
    PreparedSet(folder / "data")


@kind(PREPARED, "a report without the files")
def _(folder):
    report = small(folder) / "build_report.json"
    report.write_text(report.read_text().replace('"files"', '"file"'))
    PreparedSet(folder / "data")


@kind(PREPARED, "a report that holds no fields")
def _(folder):
    (small(folder) / "build_report.json").write_text("[]")
    PreparedSet(folder / "data")


@kind(PREPARED, "an output that holds something else")
def _(folder):
    (folder / "data").mkdir()
    (folder / "data" / "letter.txt").write_text("dear")
    small(folder)


@kind(PREPARED, "an output made with other settings")
def _(folder):
    small(folder)
    prepare("hpdv2", folder / "in", folder / "data", near_duplicates="keep", seed=1)


def run(
    title: str, edit: Callable[[Path], None] = lambda folder: None, section=PREPARED, **changes
):
    """Opens a run on a small prepared set."""

    def case(folder):
        data = small(folder, split_fractions={"train": 0.7, "validation": 0.3})
        edit(folder)
        options = {"data.split_fractions": {}} | {
            name: str(folder / value) if name.endswith("path") else value
            for name, value in changes.items()
        }
        opened, _ = setup.open_run(tiny_config(data, **options), folder / "run")
        opened.train_loader()

    kind(section, title)(case)


run("a split that there is not", **{"eval.split": "test"})
run("a further split that there is not", **{"eval.others": ("test_objects",)})
run("fewer pairs than a batch", batch_size=64)
run("another source than the set's", **{"data.source": "imagereward"})
run("shares other than the set's", **{"data.split_fractions": {"train": 0.5, "validation": 0.5}})
run("captions that do not fit", **{"data.prompt_tokens": 90})
run("a batch that does not divide over the devices", batch_size=7)
run("a model that is not there", **{"model.path": "nowhere"})
run("a held-out listener that is not there", **{"eval.held_out_listener": "nowhere"})
run("data that are not there", **{"data.path": "nowhere"})


@kind(PREPARED, "a mixture of parts that were cut by different seeds")
def _(folder):
    options = {"split_fractions": {"train": 0.7, "validation": 0.3}, "near_duplicates": "keep"}
    data, other = small(folder, **options), folder / "other"
    prepare("hpdv2", folder / "in", other, seed=1, **options)
    mixture = {"data.others": ({"source": "hpdv2", "path": str(other)},)}
    config = tiny_config(data, **mixture, **{"data.split_fractions": {}})
    setup.open_run(config, folder / "run")


LESSONS = "Completions to imitate"


def lessons(title: str, *lines: str):
    def case(folder):
        (folder / "lessons.jsonl").write_text("\n".join(lines))
        book = DemonstrationFile(str(folder / "lessons.jsonl"))
        DemonstrationEncoder(load_tokenizer(assets.tiny_model()), 2, 1, 8, book).check([RECORD])

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
