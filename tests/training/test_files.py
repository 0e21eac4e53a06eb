"""What a workdir remembers of its run, and what it refuses."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from lrt_jax import assets
from lrt_jax.config import Config, parse_config
from lrt_jax.config.presets import preset_config
from lrt_jax.config.schema import SamplingOptions
from lrt_jax.evaluation.evaluator import MODES
from lrt_jax.evaluation.predictions import Predictions
from lrt_jax.models import checkpoint_folder, folder_digest
from lrt_jax.storage.digests import sealed
from lrt_jax.training import files
from lrt_jax.training.evaluations import (
    FIELDS,
    OF_GREEDY,
    best_step,
    read_evaluation,
    read_evaluations,
)
from lrt_jax.training.files import (
    check_same_config,
    check_same_inputs,
    delete_after,
    digest_of,
    record_config,
    recorded_config,
    run_digests,
)
from tests.logs import logged
from tests.training.small_run import tiny_config

CONSTANT = {"optimizer.schedule": "constant"}
INPUTS = {"model": "1", "listener 0": "2", "data set": "3"}


@pytest.fixture
def workdir(tmp_path):
    record_config(config(), INPUTS, tmp_path)
    return tmp_path


def config(**changes) -> Config:
    return tiny_config("somewhere", **changes)


def test_the_same_run_goes_on(workdir):
    before = (workdir / "config.json").read_bytes()
    check_same_config(config(), workdir)
    check_same_inputs(INPUTS, workdir)
    record_config(config(), INPUTS, workdir)
    assert (workdir / "config.json").read_bytes() == before


def test_another_config_is_named(workdir):
    with pytest.raises(ValueError, match="group_size was 3 and is 2.*another --workdir"):
        check_same_config(config(group_size=2), workdir)
    with pytest.raises(ValueError, match="group_size was 3 and is 2"):
        check_same_config(config(group_size=2), workdir, allow_changes=True)


def test_harmless_changes_want_a_flag(workdir):
    changed = config(**{"eval.every": 1})
    with pytest.raises(ValueError, match="eval.every was 2 and is 1.*add --allow_changes"):
        check_same_config(changed, workdir)
    check_same_config(changed, workdir, allow_changes=True)
    both = config(**{"eval.every": 1, "group_size": 2})
    with pytest.raises(ValueError, match="group_size") as caught:
        check_same_config(both, workdir)
    assert "--allow_changes" not in str(caught.value)


def test_checkpoints_are_told_apart_by_what_their_parameters_depend_on():
    """What may change when a run goes on makes no difference; anything else does, by its name."""
    digests = run_digests(config(), INPUTS)
    assert digests.keys() == {"config", *INPUTS} and len(digests["config"]) == 64
    for changes in ({"eval.every": 1}, {"checkpoint_every": 7}, {"steps": 40}):
        assert run_digests(config(**changes, **CONSTANT), INPUTS) == run_digests(
            config(**CONSTANT), INPUTS
        )
    decaying = {"optimizer.schedule": "cosine"}  # over the steps
    assert run_digests(config(steps=40, **decaying), INPUTS) != run_digests(
        config(**decaying), INPUTS
    )
    others = run_digests(config(**{"rewards.accuracy": 0.25}), INPUTS | {"data set": "4"})
    assert {name for name in digests if digests[name] != others[name]} == {"config", "data set"}


@pytest.mark.parametrize("name", INPUTS)
def test_other_inputs_are_named(workdir, name):
    with pytest.raises(ValueError, match=f"the {name} is not the one that it began with"):
        check_same_inputs(INPUTS | {name: "other"}, workdir)


def test_other_software_or_machines_are_told_and_kept(workdir, monkeypatch):
    with logged() as lines:
        record_config(config(), INPUTS, workdir)
    assert lines == []
    other = files.versions() | {"jax": "9.9.9"}
    monkeypatch.setattr(files, "versions", lambda: other)
    with logged() as lines:
        record_config(config(), INPUTS, workdir)
    assert len(lines) == 1 and "and is 9.9.9; the last bits may differ" in lines[0]
    launches = json.loads((workdir / "config.json").read_text())["launches"]
    assert len(launches) == 2 and launches[1] == other != launches[0]


def test_how_images_are_resized_is_part_of_a_model(tmp_path):
    shutil.copytree(assets.tiny_model(), tmp_path / "tiny")
    processor = json.loads((tmp_path / "tiny" / "preprocessor_config.json").read_text())
    (tmp_path / "tiny" / "preprocessor_config.json").write_text(json.dumps(processor | {"x": 1}))
    assert folder_digest(tmp_path / "tiny") != folder_digest(assets.tiny_model())


def test_one_changed_weight_is_another_model(tmp_path):
    shutil.copytree(assets.tiny_model(), tmp_path / "tiny")
    before = folder_digest(tmp_path / "tiny")
    assert before == folder_digest(assets.tiny_model())
    weights = load_file(tmp_path / "tiny" / "model.safetensors")
    name = "model.norm.weight" if "model.norm.weight" in weights else sorted(weights)[0]
    weights[name] = np.nextafter(weights[name], np.float32(9))
    save_file(weights, tmp_path / "tiny" / "model.safetensors", metadata={"format": "pt"})
    assert folder_digest(tmp_path / "tiny") != before


@pytest.mark.parametrize("place", [0, 100_000, 7_000_001, 2**23 - 1])
def test_one_changed_byte_anywhere_is_another_model(tmp_path, place):
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(bytes(2**23))
    before = folder_digest(tmp_path)
    with weights.open("r+b") as file:
        file.seek(place)
        file.write(b"\1")
    assert folder_digest(tmp_path) != before


def test_large_files_are_announced_and_read_once(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint_folder, "LARGE", 1000)
    (tmp_path / "config.json").write_bytes(bytes(1000))
    (tmp_path / "model.safetensors").write_bytes(bytes(1001))
    with logged() as lines:
        digests = {folder_digest(tmp_path, announce=True) for _ in range(2)}
    assert len(digests) == 1
    assert lines == [f"reading all of {tmp_path / 'model.safetensors'}, 0.0 GB, for its digest"]


def test_later_files_are_cut_back(tmp_path):
    for folder, ending in (("completions", "parquet"), ("eval", "json")):
        (tmp_path / folder).mkdir()
        for step in (0, 2, 4):
            (tmp_path / folder / f"step-{step:06}.{ending}").write_text("{}")
    others = {"evaluation.json", "step-2-test.json", "step-9.json", "step-0000004.json"}
    others |= {"step-000004.txt", "step-000004-test.json", "step-٠٠٠٠٠4.json"}
    for name in others:
        (tmp_path / "eval" / name).write_text("{}")
    delete_after(tmp_path, 2)
    names = {path.name for path in tmp_path.rglob("*.*")}
    assert names == others | {
        f"step-{step:06}.{ending}" for step in (0, 2) for ending in ("parquet", "json")
    }


def test_the_best_evaluation_after_training_began(tmp_path):
    assert best_step(tmp_path) is None
    (tmp_path / "eval").mkdir()
    for step, accuracy in ((0, 0.9), (2, 0.6), (4, 0.7), (6, 0.5)):
        content = evaluation(step, accuracy=accuracy)
        path = tmp_path / "eval" / f"step-{step:06}.json"
        path.write_text(json.dumps(sealed(content)))
    for name in ("step-2-test", "step-best", "mine"):
        (tmp_path / "eval" / f"{name}.json").write_text("{}")
    assert best_step(tmp_path) == 4


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ("all", "TypeError"),
        ({"before": {}}, "KeyError: 'step'"),
        ({"step": 3}, "it is of step 3"),
        (("accuracy",), "KeyError: 'accuracy'"),
        (("judgements",), "KeyError: 'judgements'"),
    ],
)
def test_evaluations_that_a_run_did_not_write_are_named_with_the_remedy(tmp_path, change, what):
    path = tmp_path / "eval" / "step-000002.json"
    path.parent.mkdir()
    content = evaluation(2, accuracy=0.5)
    if change == "all":
        content = [content]
    elif isinstance(change, tuple):
        content = {name: value for name, value in content.items() if name not in change}
    else:
        content = change if "before" in change else content | change
    path.write_text(json.dumps(content if change == "all" else sealed(content)))
    told = rf"step-000002.json: cannot be used \(.*{what}.*\); restore the run's .* step 2, or move"
    for read in (best_step, read_evaluations, lambda workdir: read_evaluation(workdir, 2)):
        with pytest.raises(ValueError, match=told):
            read(tmp_path)


def test_evaluations_of_further_splits_go_with_the_steps_that_are_made_again(tmp_path):
    for split in ("", "test_objects"):
        for step in (0, 2, 4):
            path = tmp_path / "eval" / split / f"step-{step:06}.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("{}")
    delete_after(tmp_path, 2)
    left = sorted(x.relative_to(tmp_path).as_posix() for x in tmp_path.rglob("*.json"))
    wanted = [f"eval/{split}step-00000{i}.json" for split in ("", "test_objects/") for i in (0, 2)]
    assert left == wanted


def test_further_splits_and_the_held_out_listener_are_part_of_a_run_where_they_are_named(workdir):
    given = config(**{"eval.others": ("test",), "eval.held_out_listener": "other"})
    with pytest.raises(
        ValueError, match="eval.held_out_listener was None and is 'other'; eval.oth"
    ):
        check_same_config(given, workdir, allow_changes=True)
    recorded = json.loads((workdir / "config.json").read_text())["config"]["eval"]
    assert not {"others", "held_out_listener"} & recorded.keys()
    record_config(given, INPUTS, workdir)
    assert recorded_config(workdir) == given


def evaluation(step: int, **values) -> dict:
    """What a run writes of a step, as far as anybody reads it: no pairs, and nothing known."""
    greedy = {f"{name}{ending}": None for name in OF_GREEDY for ending in ("", "_ci95")}
    rows = {field.name: [] for field in dataclasses.fields(Predictions)}
    judgements = dict.fromkeys(MODES, rows)
    known = dict.fromkeys(FIELDS) | values
    return {"step": step, **known, "greedy": greedy, "judgements": judgements}


EARLIER = Path(__file__).parent / "earlier"
OF_THE_PRESET = {  # as it was then
    "steps": 100,
    "max_completion_length": 60,
    "loss.beta": 0.04,
    "checkpoint_every": 25,
    "completions_every": 20,
}
# Recorded by a version that had other names for fields, with the digests that it gave; `given` has
# a value of every field that has another name now, or that may be absent.
OTHER_NAMES = {
    "absent": (
        {"data.source": "scenes", "data.scenes.train": 16},
        "236a0c5d3fa7d6ac",
        "2be642b93a4660c7dd3bb529400e5eb164d331029ad16c4d034d96775e1d0d51",
    ),
    "given": (
        {
            "algorithm": "sft",
            "model.from_scratch": True,
            "model.freeze": (),
            "data.source": "hpdv2",
            "data.demonstrations": "some.jsonl",
            "data.criterion": "style",
            "data.max_patches": 256,
            "data.prompt_tokens": 640,
            "data.judge_tokens": 704,
            "data.others": (
                {"source": "imagereward", "path": "other", "share": 0.5},
                {"source": "scenes"},
            ),
            "listener.path": "judge",
            "listener.others": ({"style": "continue"}, {"path": "another"}),
            "loss.importance_sampling_cap": 2.0,
            "loss.importance_sampling_level": "sequence",
            "loss.delta": 2.0,
            "loss.epsilon_high": 0.28,
            "optimizer.mu_dtype": "bfloat16",
            "optimizer.clip_norm": 0.0,
            "rewards.weights": {"brevity": 0.25},
        },
        "12615b335f0b3cc1",
        "e2954beb43f9a860fadc4f34c39b2cec637674654fd058184bd5b826d0e2b32d",
    ),
}


@pytest.mark.parametrize("name", OTHER_NAMES)
def test_a_run_that_an_earlier_version_began_goes_on(tmp_path, name):
    changes, digest, of_checkpoints = OTHER_NAMES[name]
    shutil.copy(EARLIER / f"{name}.json", tmp_path / "config.json")
    values = preset_config("tiny")
    values.data.path = "somewhere"
    values.eval.others, values.eval.held_out_listener = (), None  # which nobody had then
    values.update_from_flattened_dict(OF_THE_PRESET | changes)
    config = parse_config(values)
    check_same_config(config, tmp_path)
    assert recorded_config(tmp_path) == config
    assert digest_of(config) == digest
    assert run_digests(config, {}) == {"config": of_checkpoints}
    record_config(config, {"model": "1"}, tmp_path)
    check_same_config(config, tmp_path)
    assert recorded_config(tmp_path) == config


def test_what_differs_from_an_earlier_version_s_run_is_told_by_the_names_of_today(tmp_path):
    shutil.copy(EARLIER / "absent.json", tmp_path / "config.json")
    config = recorded_config(tmp_path)
    loss = dataclasses.replace(config.loss, importance_sampling_cap=2.0)
    with pytest.raises(ValueError, match=r"loss.importance_sampling_cap was \S+ and is 2.0"):
        check_same_config(dataclasses.replace(config, loss=loss), tmp_path)


def test_the_weights_that_are_sampled_from_are_part_of_a_run_where_they_are_int8(workdir):
    given = config(**{"sampling.weights": "int8", "loss.importance_sampling_cap": 2.0})
    full = dataclasses.replace(given, sampling=SamplingOptions())
    assert run_digests(given, INPUTS) != run_digests(full, INPUTS)
    record_config(full, INPUTS, workdir)
    assert "sampling" not in json.loads((workdir / "config.json").read_text())["config"]
    with pytest.raises(ValueError, match="sampling.weights was None and is 'int8'"):
        check_same_config(given, workdir, allow_changes=True)
    record_config(given, INPUTS, workdir)
    assert recorded_config(workdir) == given


def test_prompts_are_part_of_a_run_where_they_are_given(workdir):
    given = config(**{"prompts.question": "Which one?"})
    with pytest.raises(ValueError, match="prompts.question was None and is 'Which one"):
        check_same_config(given, workdir, allow_changes=True)
    assert run_digests(given, INPUTS)["config"] != run_digests(config(), INPUTS)["config"]
    assert "prompts" not in json.loads((workdir / "config.json").read_text())["config"]
    record_config(given, INPUTS, workdir)
    assert recorded_config(workdir) == given
