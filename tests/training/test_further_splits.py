"""Runs that are measured on several splits, and by a model that has no part in them."""

import json
import shutil
from pathlib import Path

import jax
import pytest

from lrt_jax import assets
from lrt_jax.parallel.mesh import make_mesh
from lrt_jax.reporting.results import results_table
from lrt_jax.rl import frozen
from lrt_jax.storage.workdir import LocalWorkdir
from lrt_jax.training import evaluations, setup
from lrt_jax.training.loop import train
from tests.logs import logged
from tests.training.small_run import sft_config

SPLITS = ("test_combinations", "test_objects")
STEPS = (0, 1)


class Killed(Exception):
    """As if the machine were gone."""


@pytest.fixture(scope="module")
def other(tmp_path_factory) -> Path:
    """A model that the run neither starts from nor listens to."""
    return shutil.copytree(assets.tiny_model(), tmp_path_factory.mktemp("models") / "other")


@pytest.fixture(autouse=True)
def one_device(monkeypatch):
    monkeypatch.setattr(setup, "make_mesh", lambda *_: make_mesh(devices=jax.devices()[:1]))


def config(other: Path, **changes):
    fields = {"steps": 1, "checkpoint_every": 1, "eval.others": SPLITS}
    return sft_config(**fields | {"eval.held_out_listener": str(other)} | changes)


@pytest.fixture(scope="module")
def finished(other, tmp_path_factory):
    """Workdir of a run that was killed between evaluations, results, compilations and log."""
    workdir, asked, compiled = tmp_path_factory.mktemp("run"), [], []
    made, loaded = evaluations.evaluate_params, []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(setup, "make_mesh", lambda *_: make_mesh(devices=jax.devices()[:1]))

        def counted(run, params, title, *rest):
            found = made(run, params, title, *rest)
            asked.append(title)
            compiled.append(run.engine._frozen_pass._cache_size())
            return found

        def killed(run, params, title, *rest):
            if title == f"evaluation after 0 steps, {SPLITS[1]}":
                raise Killed
            return counted(run, params, title, *rest)

        def load(folder, *args, **options):
            loaded.append(folder)
            return load_model(folder, *args, **options)

        load_model = frozen.load_model
        patch.setattr(frozen, "load_model", load)
        patch.setattr(evaluations, "evaluate_params", killed)
        with pytest.raises(Killed):
            train(config(other), LocalWorkdir(workdir))
        patch.setattr(evaluations, "evaluate_params", counted)
        loaded.clear()
        with logged() as lines:
            results = train(config(other), LocalWorkdir(workdir))
    return workdir, results, asked, compiled, lines, loaded


def test_every_split_is_evaluated_once_before_and_after(finished):
    workdir, _, asked, *_ = finished
    titles = [f"evaluation after {step} steps" for step in STEPS]
    wanted = [f"{title}{end}" for title in titles for end in ("", *(f", {x}" for x in SPLITS))]
    assert asked == wanted  # also of the run that was killed between two of them
    for split in SPLITS:
        names = {path.name for path in (workdir / "eval" / split).iterdir()}
        assert names == {f"step-{step:06}.json" for step in STEPS}


def test_no_split_compiles_anything_anew(finished):
    *_, compiled, _, _ = finished
    assert len(set(compiled[:2])) == 1 and len(set(compiled[2:])) == 1


def test_the_held_out_listener_is_asked_about_the_main_split_alone(finished):
    _, results, *_ = finished
    for moment in ("before", "after"):
        assert results[moment]["held_out_accuracy_alone"] is not None
        for compared in results["splits"].values():
            assert compared[moment]["held_out_accuracy_alone"] is None


def test_the_held_out_model_is_loaded_once(finished, other):
    assert finished[-1] == [other.resolve()]


def test_each_evaluation_has_a_line(finished):
    lines = finished[4]
    for step in STEPS:
        for split in SPLITS[step == 0 :]:
            assert sum(line.startswith(f"step {step}, {split}: accuracy") for line in lines) == 1


def test_results_hold_every_split_with_the_fields_of_the_main_one(finished):
    workdir, results, *_ = finished
    assert [*results["splits"]] == [*SPLITS]
    for compared in results["splits"].values():
        assert compared.keys() == {"before", "after"}
        assert compared["before"].keys() == results["before"].keys()
        assert compared["after"].keys() == results["after"].keys()
    assert json.loads((workdir / "results.json").read_text()) == results
    table = results_table(results)
    assert all(f"2 pairs of split '{split}'" in table for split in ("validation", *SPLITS))
    card = (workdir / "export" / "README.md").read_text()
    assert (
        "2 pairs of the split `test_objects`" in card and "**Held-out listener**: `other`" in card
    )
    settings = json.loads((workdir / "export" / "lrt_jax.json").read_text())
    assert settings["held_out_listener"] == {"model": "other", "style": "continue"}
    assert settings["listeners"] == []  # it is no part of the training


def test_the_held_out_listener_is_part_of_what_a_run_reads(finished, other, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(finished[0], workdir)
    shutil.rmtree(workdir / "export")
    weights = other / "model.safetensors"
    content = weights.read_bytes()
    try:
        weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        with pytest.raises(ValueError, match="the held-out listener is not the one that it began"):
            train(config(other), LocalWorkdir(workdir))
    finally:
        weights.write_bytes(content)


def test_a_further_split_that_there_is_not_is_told(other, tmp_path):
    with pytest.raises(ValueError, match="no split 'nowhere'; it has .*eval.others"):
        setup.open_run(config(other, **{"eval.others": ("nowhere",)}), tmp_path)
