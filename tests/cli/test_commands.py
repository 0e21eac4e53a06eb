"""The commands as a person types them, on self-made and on real pairs."""

import json
import os
import re
import shutil
import subprocess
import sys
import types
from logging import getLogger
from pathlib import Path

import pytest
from absl import flags as absl_flags

from lrt_jax import evaluate, main
from lrt_jax import export as export_command
from lrt_jax.cli import commands
from lrt_jax.config import Config
from lrt_jax.config.schema import SamplingOptions
from lrt_jax.storage import compilation_cache
from lrt_jax.storage.digests import SEAL, check_seal
from lrt_jax.storage.workdir import LocalWorkdir
from lrt_jax.training import evaluations, export, setup
from lrt_jax.training.checkpoint import Checkpointer
from tests.compiling import FAST
from tests.patience import LONG
from tests.training.small_run import write_hpdv2

ROOT = Path(__file__).parents[2]
SMALLER = [
    "--config.steps=2",
    "--config.batch_size=4",
    "--config.group_size=2",
    "--config.eval.pairs=4",
    "--config.eval.batch_size=4",
    "--config.checkpoint_every=1",
    "--config.eval.held_out_listener=None",
]


def run(command, *args):
    """Runs `python -m lrt_jax.COMMAND` with one device, from the root of the checkout."""
    return subprocess.run(
        [sys.executable, "-m", f"lrt_jax.{command}", *map(str, args)],
        capture_output=True,
        text=True,
        timeout=LONG,
        cwd=ROOT,
        env=os.environ | {"XLA_FLAGS": FAST},
    )


def own_pairs(gallery: Path, folder: Path) -> Path:
    """The gallery as data of one's own: as HPDv2 it is a test split, and never trained on."""
    shutil.copytree(gallery / "images", folder)
    records = json.loads((gallery / "test.json").read_text())
    rows = (
        {"caption": x["prompt"], "images": x["image_path"], "ranks": x["rank"]} for x in records
    )
    (folder / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


def test_real_pairs_through_every_command(real_data, tmp_path):
    config = [
        "--config=configs/hpdv2.py:tiny",
        "--config.data.source=folder",
        f"--config.data.path={own_pairs(real_data / 'hpd_gallery', tmp_path / 'gallery')}",
        "--config.data.split_fractions.train=0.7",
        "--config.data.split_fractions.validation=0.3",
    ]
    trained = run("main", *config, *SMALLER, f"--workdir={tmp_path / 'run'}")
    assert trained.returncode == 0, trained.stderr
    assert trained.stdout.startswith("preset tiny: as asked\ndata: 75 captions, 675 images, 2,700")
    assert "step 2/2 reward" in trained.stdout and "ETA" in trained.stdout
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["after"]["pairs"] == 4

    assert "training on 2,038 pairs of split 'train', ties left out" in trained.stdout

    evaluated = run(
        "evaluate",
        "--config=configs/imagereward.py:tiny",
        "--config.data.source=imagereward",
        f"--config.data.path={real_data / 'imagereward_test'}",
        "--config.eval.held_out_listener=None",
        f"--model={tmp_path / 'run'}",
        f"--workdir={tmp_path / 'eval'}",
    )
    assert evaluated.returncode == 0, evaluated.stderr
    content = json.loads((tmp_path / "eval" / "eval" / "evaluation.json").read_text())
    check_seal(content)
    assert content["pairs"] == 6 and len(content["judgements"]["sampled"]["pair"]) == 12

    leaking = run(
        "evaluate", *config, f"--model={tmp_path / 'run'}", f"--workdir={tmp_path / 'run'}"
    )
    assert leaking.returncode == 1 and "pairs of split 'all' were trained on" in leaking.stderr
    assert "take --split=validation, or leave them out" in leaking.stderr

    exported = run(
        "export", f"--checkpoint={tmp_path / 'run'}", f"--output={tmp_path / 'model'}", "--step=1"
    )
    assert exported.returncode == 0, exported.stderr
    assert {"config.json", "model.safetensors", "tokenizer.json", "lrt_jax.json"} <= {
        path.name for path in (tmp_path / "model").iterdir()
    }


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--config.stepz=1"], "did you mean steps?"),
        (["--config.data.path=/nowhere"], "/nowhere: no such folder"),
        (["--config.group_size=1"], "group_size: 1 has no standard deviation"),
        (["--config.group_size=1", "--config.stepz=1"], "group_size: 1 has no standard deviation"),
        (["steps=1"], "steps=1: not a flag"),
        (["--steps=1"], "--steps: no such flag; did you mean --config.steps?"),
        (["--config.preset=7b"], "choose it with --config=FILE:7b"),
        (["--config=configs/hpdv2.py:tinny"], "preset 'tinny' is not one of"),
        (["--config.listener.path=/no/model"], "/no/model: no such folder"),
    ],
)
def test_bad_input_ends_with_a_line(flags, message, tmp_path):
    data = [f"--config.data.path={tmp_path}"]
    done = run("main", "--config=configs/hpdv2.py:tiny", *data, *flags, f"--workdir={tmp_path}")
    assert done.returncode == 1
    assert message in done.stderr and "Traceback" not in done.stderr
    assert not list(tmp_path.glob("*.json"))


def test_a_config_of_ones_own_without_a_preset_is_told(tmp_path):
    file = tmp_path / "own.py"
    file.write_text(
        "import ml_collections\n\n\ndef get_config():\n"
        "    return ml_collections.ConfigDict({'steps': 1})\n"
    )
    done = run("main", f"--config={file}")
    assert done.returncode == 1
    assert "preset: not set; a config file begins with lrt_jax.config.presets" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("step-000040", "a run that works in this folder writes eval/step-000040.json itself"),
        ("step-1000000", "take another name"),
        ("../config", "the name of a file, without folder"),
        (".hidden", "the name of a file, without folder"),
        ("", "the name of a file, without folder"),
    ],
)
def test_an_evaluation_takes_no_name_of_the_runs_own_files(name, message, monkeypatch, tmp_path):
    values = absl_flags.FlagValues()
    evaluate.define_flags(values)
    given = ["--config=configs/hpdv2.py:tiny", "--model=tiny", f"--workdir={tmp_path / 'run'}"]
    values(["evaluate", *given, f"--name={name}"])
    monkeypatch.setattr(commands, "refuse_override", lambda *_: None)
    monkeypatch.setattr(commands, "read_config", lambda *_: None)
    with pytest.raises(ValueError, match=f"--name={re.escape(name)}: .*{message}"):
        evaluate.main(values)
    assert not list(tmp_path.iterdir())


def test_an_evaluation_is_written_with_a_digest_of_what_it_says(monkeypatch, tmp_path):
    run = types.SimpleNamespace(left_out=())
    monkeypatch.setattr(setup, "open_run", lambda *_, **__: (run, {}))
    monkeypatch.setattr(export, "apart_from_training", lambda run, **_: run)
    monkeypatch.setattr(evaluations, "evaluate_params", lambda *_: {"accuracy": 0.5})
    monkeypatch.setattr(evaluations, "describe", lambda *_: "")
    values = absl_flags.FlagValues()
    evaluate.define_flags(values)
    values(
        ["evaluate", "--config=imagereward", "--model=tiny", f"--workdir={tmp_path}", "--name=mine"]
    )
    evaluate._evaluate(values, Config(), LocalWorkdir(tmp_path))
    content = json.loads((tmp_path / "eval" / "mine.json").read_text())
    check_seal(content)
    assert content.keys() == {"model", "versions", "trained_pairs_left_out", "accuracy", SEAL}
    assert (content["model"], content["accuracy"]) == ("tiny", 0.5)


@pytest.mark.parametrize("weights", ["full", "int8"])
def test_an_evaluation_samples_with_the_weights_that_its_config_names(
    monkeypatch, tmp_path, weights
):
    run, asked = types.SimpleNamespace(left_out=()), []
    monkeypatch.setattr(setup, "open_run", lambda *_, **__: (run, {}))
    monkeypatch.setattr(export, "apart_from_training", lambda run, **_: run)
    monkeypatch.setattr(
        evaluations, "evaluate_params", lambda *args: asked.append(args[3:]) or {"accuracy": 0.5}
    )
    monkeypatch.setattr(evaluations, "describe", lambda *_: "")
    values = types.SimpleNamespace(model="tiny", on_trained_pairs="error", name="mine")
    config = Config(sampling=SamplingOptions(weights))
    evaluate._evaluate(values, config, LocalWorkdir(tmp_path))
    assert asked == [(weights,)]


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--checkpoint=s3://bucket/run"], "--checkpoint=s3://bucket/run: name a folder of this"),
        (["--checkpoint=/no/run"], "--checkpoint=/no/run: no such folder; name the folder of a"),
        (["--checkpoint=.", "--public"], "--public: nothing is put on the Hub; add --push_to_hub="),
        (["--checkpoint=.", "--dtype=float16"], "<float32|bfloat16>"),
        (["--workdir=."], "--workdir: no such flag"),
        ([], "--checkpoint must be given; see --help"),
    ],
)
def test_what_cannot_be_exported_is_told_in_a_line(flags, message, tmp_path):
    done = run("export", *flags, f"--output={tmp_path / 'model'}")
    assert done.returncode == 1
    assert message in done.stderr and "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


def test_help_shows_what_to_type():
    for command in ("main", "prepare", "export"):
        done = run(command, "--help")
        assert done.returncode == 0
        assert f"lrt {'train' if command == 'main' else command} --" in done.stdout
        assert "flags:" in done.stdout
    assert "--config must be given; see --help" in run("main").stderr


def test_bad_images_are_named_and_nothing_is_left(tmp_path):
    data = write_hpdv2(tmp_path / "in")
    (data / "images" / "003-1.png").write_bytes(b"no image")
    done = run(
        "main",
        "--config=configs/hpdv2.py:tiny",
        f"--config.data.path={data}",
        f"--workdir={tmp_path / 'run'}",
    )
    assert done.returncode == 1 and "003-1.png" in done.stderr
    assert not (tmp_path / "run" / "data").exists()


def test_commands_say_nothing_of_a_folder_that_is_only_read(tmp_path, caplog, monkeypatch):
    for name in ("absl", "gcsfs", "fsspec"):  # are as before afterwards
        monkeypatch.setattr(getLogger(name), "level", getLogger(name).level)
    monkeypatch.setattr(getLogger("absl"), "filters", [])

    def told() -> str:
        caplog.clear()
        with Checkpointer(tmp_path, 0):
            return caplog.text

    assert "directory is read only" in told()  # else there is nothing to leave out
    commands.quieten()
    assert told() == ""
    getLogger("absl").warning("something else")
    assert "something else" in caplog.text


@pytest.mark.parametrize("command", [main, evaluate, export_command])
@pytest.mark.parametrize(
    ("flag", "place"),
    [
        ([], None),
        (["--compilation_cache=off"], "off"),
        (["--compilation_cache=here"], "{}/here"),
        (["--compilation_cache=gs://b/compiled/"], "gs://b/compiled"),
    ],
)
def test_every_command_that_compiles_keeps_programs(command, flag, place, monkeypatch, tmp_path):
    """From before the first compilation on, and not in processes that are started from it."""
    values = absl_flags.FlagValues()
    command.define_flags(values)
    required = ["config=imagereward", "model=tiny", "workdir=W", "checkpoint=C", "output=O"]
    values(["NAME", *(f"--{x}" for x in required if x.partition("=")[0] in values), *flag])
    monkeypatch.setattr(commands.flags, "FLAGS", values)
    monkeypatch.chdir(tmp_path)
    places, environment = [], dict(os.environ)
    monkeypatch.setattr(compilation_cache, "keep_programs", places.append)
    commands.start()
    assert places == [place and place.format(tmp_path)]
    assert dict(os.environ) == environment


@pytest.mark.parametrize("place", ["", "s3://bucket/compiled", "gs:///compiled"])
def test_programs_are_kept_in_a_folder_or_a_bucket(place, monkeypatch):
    values = absl_flags.FlagValues()
    commands.define_compilation_cache(values)
    values(["NAME", f"--compilation_cache={place}"])
    monkeypatch.setattr(commands.flags, "FLAGS", values)
    with pytest.raises(ValueError, match=f"--compilation_cache={place}: name a folder"):
        commands.start()
