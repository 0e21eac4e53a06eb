"""A whole run: its files, its numbers, and going on after it was stopped."""

import json
import os
import shutil
import signal

import jax
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.numpy import load_file
from transformers import Qwen2_5_VLForConditionalGeneration

from benchmarks.interruptions import CLOCK
from lrt_jax import assets
from lrt_jax.algorithms import algorithm_of, grpo
from lrt_jax.algorithms.grpo import GRPO
from lrt_jax.data.dataset.prepared_set import PreparedSet
from lrt_jax.models import apply_hf, load_model
from lrt_jax.parallel.mesh import make_mesh
from lrt_jax.reporting.metrics import read_metrics
from lrt_jax.reporting.monitor import Monitor
from lrt_jax.rl import frozen
from lrt_jax.rl.engine import Engine
from lrt_jax.rl.learner import split_frozen
from lrt_jax.storage.workdir import LocalWorkdir
from lrt_jax.training import loop, setup, stopping
from lrt_jax.training.files import record_config
from lrt_jax.training.loop import train
from tests.hf import image_only_processor
from tests.logs import logged
from tests.models.hf_reference import as_torch, random_images
from tests.training.small_run import exported_bytes, tiny_config, train_interrupted


def use_devices(patch, count):
    """Runs on the first `count` of the test run's four devices."""
    patch.setattr(setup, "make_mesh", lambda *_: make_mesh(devices=jax.devices()[:count]))


@pytest.fixture(autouse=True)
def one_device(monkeypatch):
    use_devices(monkeypatch, 1)


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory):
    """Workdir and results of a run with a listener and a reference."""
    workdir = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        use_devices(patch, 1)
        return workdir, train(tiny_config(data), LocalWorkdir(workdir))


def test_leaves_every_file(finished):
    workdir, results = finished
    assert {path.name for path in workdir.iterdir()} == {
        "checkpoints",
        "completions",
        "config.json",
        "curves.png",
        "data",
        "eval",
        "export",
        "lrt_jax.json",
        "trained_on.json",
        "metrics.jsonl",
        "results.json",
        "tensorboard",
    }
    assert json.loads((workdir / "results.json").read_text()) == results
    assert sorted(p.name for p in (workdir / "checkpoints").iterdir()) == ["2", "4"]
    assert sorted(p.name for p in (workdir / "eval").iterdir()) == [
        "step-000000.json",
        "step-000002.json",
        "step-000004.json",
    ]
    assert json.loads((workdir / "config.json").read_text())["config"]["steps"] == 4


def test_results_have_the_fields_that_scripts_rely_on(finished):
    workdir, results = finished
    assert results.keys() >= {
        "algorithm",
        "preset",
        "steps",
        "seconds",
        "before",
        "after",
        "checkpoint",
        "export",
    }
    fields = {
        "accuracy",
        "accuracy_ci95",
        "accuracy_greedy",
        "listener_confidence",
        "contradiction_rate",
        "contradiction_rate_confident",
        "contradiction_soft",
        "accuracy_reward_model",
        "first_position_rate",
        "unparsed",
        "pairs",
        "trace_truth",
    }
    for part in ("before", "after"):
        assert results[part].keys() >= fields
        assert results[part]["pairs"] == 4
    assert np.isfinite(results["after"]["accuracy_gain"])
    assert results["after"]["accuracy_gain_ci95"] is None  # of four captions
    # Of which pairs an image stands between bars is known to the last.
    saved = json.loads((workdir / "eval" / "step-000000.json").read_text())
    sampled = saved["judgements"]["sampled"]
    shown = zip(sampled["letterboxed"], sampled["target"], strict=True)
    rows = sum(bars and target != 0.5 for bars, target in shown)
    assert rows == saved["sampled"]["letterboxed_judgements"] > 0


def test_every_stage_ran_on_something(finished):
    """The built-in model answers in form often enough that all reward terms say something."""
    lines = read_metrics(finished[0])
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    assert max(line["reward/format/mean"] for line in lines) > 0
    assert max(line["reward/listener/mean"] for line in lines) > 0
    assert max(line["reward/total/spread"] for line in lines) > 0
    assert all(line["grad_norm"] > 0 for line in lines)
    assert lines[0]["kl"] == pytest.approx(0.0, abs=1e-6) and lines[-1]["kl"] > 1e-6
    assert max(line["sampler_drift_max"] for line in lines) < 1e-4


def test_nothing_compiles_after_the_first_step(finished):
    lines = read_metrics(finished[0])
    assert lines[0]["compilations"] > 0
    assert [line["compilations"] for line in lines[1:]] == [0, 0, 0]


def test_completions_tell_the_reward_of_each_sample(finished):
    workdir, _ = finished
    table = pq.read_table(workdir / "completions" / "step-000004.parquet").to_pylist()
    assert len(table) == 4 * 3
    for row in table:
        total = row["reward_format"] + 0.5 * row["reward_accuracy"] + 0.5 * row["reward_listener"]
        assert row["total"] == pytest.approx(total, abs=1e-6)
        assert (row["choice"] >= 0) == (row["listener_p_first"] is not None)
        if row["choice"] >= 0:
            right = float(row["p_first"] > 0.5) == float(row["choice"] == 0)
            assert row["reward_accuracy"] == float(right)
    keys = {PreparedSet(workdir / "data").image(i).key for i in range(60)}
    assert {key for row in table for key in row["image_keys"]} <= keys


def test_export_opens_in_transformers_with_equal_logits(finished):
    folder = finished[0] / "export"
    hf = Qwen2_5_VLForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    processor = image_only_processor(folder)
    inputs = dict(
        processor(
            text=["<|vision_start|><|image_pad|><|vision_end|> is image 1"],
            images=random_images(0, 1),
            return_tensors="np",
        )
    )
    with torch.no_grad():
        wanted = hf(**as_torch(inputs)).logits.numpy()
    np.testing.assert_allclose(apply_hf(*load_model(folder), inputs), wanted, atol=1e-4)
    settings = json.loads((folder / "lrt_jax.json").read_text())
    assert settings["prompt"]["tokens"] == 224 and settings["listeners"][0]["style"] == "continue"
    before = load_file(assets.tiny_model() / "model.safetensors")
    after = load_file(folder / "model.safetensors")
    changed = {name for name in before if before[name].tobytes() != after[name].tobytes()}
    assert changed and not any(name.startswith("visual.") for name in changed)


def test_stopped_run_ends_in_the_same_bits(finished, data, tmp_path, monkeypatch):
    workdir, _ = finished
    lines = train_interrupted(tiny_config(data), tmp_path, monkeypatch, step=4, by=GRPO)
    assert any("going on from the checkpoint of step 2" in line for line in lines)
    assert without_clock(read_metrics(tmp_path)) == without_clock(read_metrics(workdir))
    assert exported_bytes(tmp_path) == exported_bytes(workdir)


def test_a_run_that_is_asked_to_stop_goes_on_to_the_same_bits(
    finished, data, tmp_path, monkeypatch
):
    """SIGTERM in the third step of four, when no checkpoint holds the two before it."""
    workdir, _ = finished
    config = tiny_config(data, **{"checkpoint_every": 0, "eval.every": 0})
    step = GRPO.step

    def asked_in_3(self, state, batch, number, monitor):
        if number == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, state, batch, number, monitor)

    monkeypatch.setattr(GRPO, "step", asked_in_3)
    monkeypatch.setattr(stopping, "GRACE", 120.0)  # else a slow machine ends all tests
    with logged() as lines, pytest.raises(SystemExit):
        train(config, LocalWorkdir(tmp_path))
    assert "after step 3 of 4, which is saved" in lines[-1]
    monkeypatch.setattr(GRPO, "step", step)
    with logged() as lines:
        train(config, LocalWorkdir(tmp_path))
    assert "going on from the checkpoint of step 3" in lines
    assert without_clock(read_metrics(tmp_path)) == without_clock(read_metrics(workdir))
    assert exported_bytes(tmp_path) == exported_bytes(workdir)


def test_fewer_steps_than_are_done(finished, data, tmp_path):
    shutil.copytree(finished[0], tmp_path / "run")
    any_length = {"optimizer.schedule": "constant"}
    record_config(tiny_config(data, **any_length), {}, tmp_path / "run")
    shorter = tiny_config(data, steps=2, **any_length)
    with pytest.raises(ValueError, match="has done 4 steps, more than steps=2"):
        train(shorter, LocalWorkdir(tmp_path / "run"), allow_changes=True)


def test_what_is_gone_of_a_finished_run_is_made_again(finished, data, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(finished[0], workdir)
    shutil.rmtree(workdir / "export")
    (workdir / "metrics.jsonl").write_text("")
    with logged() as lines:
        train(tiny_config(data), LocalWorkdir(workdir))
    assert "note: 4 of 4 steps are missing in metrics.jsonl" in lines
    assert exported_bytes(workdir) == exported_bytes(finished[0])


def without_clock(lines):
    return [{k: v for k, v in line.items() if not k.startswith(CLOCK)} for line in lines]


def test_workdir_of_another_run_is_refused(finished, data):
    with pytest.raises(ValueError, match="group_size was 3 and is 2"):
        train(tiny_config(data, group_size=2), LocalWorkdir(finished[0]))


def test_images_pass_each_tower_once(data, tmp_path, monkeypatch):
    """Exactly two images for each pair and tower, however many roles and members there are."""
    other = tmp_path / "other"
    shutil.copytree(assets.tiny_model(), other)
    config = tiny_config(data, **{"listener.others": ({"path": str(other), "style": "judge"},)})
    run, params = setup.open_run(config, tmp_path)
    seen = []
    encode = run.engine._encode
    monkeypatch.setattr(
        run.engine,
        "_encode",
        lambda model, params, images: (
            seen.append((id(params), images.patches.shape[:2])) or encode(model, params, images)
        ),
    )
    algorithm = algorithm_of(run.config)(run)
    state = algorithm.init(params)
    with run.train_loader() as batches, Monitor() as monitor:
        _, outcome = algorithm.step(state, next(batches), 1, monitor)
    assert [shape for _, shape in seen] == [(4, 2), (4, 2)]  # the policy's and the other's
    assert len({tower for tower, _ in seen}) == 2
    assert outcome.scores.p_first.shape == (4, 3)


def test_naive_grpo_loads_no_listener(data, tmp_path, monkeypatch):
    loaded = []
    load = setup.load_model
    for module in (setup, frozen):
        monkeypatch.setattr(module, "load_model", lambda *a, **k: loaded.append(a) or load(*a, **k))
    run, _ = setup.open_run(tiny_config(data, algorithm="grpo", **{"loss.beta": 0.0}), tmp_path)
    assert len(loaded) == 1 and run.engine.listeners == () and run.engine.reference is None
    assert run.config.reward_weights == {"format": 1.0, "accuracy": 0.5}


def test_zero_learning_rate_changes_nothing(data, tmp_path):
    changes = {"optimizer.learning_rate": 0.0, "steps": 1, "loss.num_iterations": 2}
    train(tiny_config(data, **changes), LocalWorkdir(tmp_path))
    before = load_file(assets.tiny_model() / "model.safetensors")
    after = load_file(tmp_path / "export" / "model.safetensors")
    assert {k: v.tobytes() for k, v in before.items()} == {k: v.tobytes() for k, v in after.items()}


def take_steps(data, workdir, steps=2, **changes):
    """Steps of a fresh run: its state before and after, and what each left."""
    run, params = setup.open_run(tiny_config(data, **changes), workdir)
    algorithm = algorithm_of(run.config)(run)
    state = algorithm.init(params)
    outcomes, compilations = [], []
    with run.train_loader() as batches, Monitor() as monitor:
        for step in range(1, steps + 1):
            state, outcome = algorithm.step(state, next(batches), step, monitor)
            outcomes.append(outcome)
            compilations.append(monitor.take(1)["compilations"])
    return state, outcomes, compilations


# A large epsilon keeps Adam's update proportional to the gradient, and so comparable; at higher
# rates the second update's gradient multiplies what the first one was rounded by.
COMPARABLE = {"optimizer.eps": 1.0, "optimizer.learning_rate": 2e-3, "loss.num_iterations": 2}


@pytest.fixture(scope="module")
def steps_of_one_device(data, tmp_path_factory):
    """What `take_steps` gives on one device."""
    with pytest.MonkeyPatch.context() as patch:
        use_devices(patch, 1)
        return take_steps(data, tmp_path_factory.mktemp("one"), **COMPARABLE)


@pytest.mark.parametrize("axes", [{"fsdp": 4}, {"fsdp": 2, "tensor": 2}])
def test_many_devices_take_the_same_steps(steps_of_one_device, data, tmp_path, monkeypatch, axes):
    """The same code on a mesh of four, which is compiled once too."""
    one, alone, _ = steps_of_one_device
    monkeypatch.setattr(setup, "make_mesh", lambda *_: make_mesh(**axes))
    four, together, compilations = take_steps(data, tmp_path, **COMPARABLE)
    assert compilations[0] > 0 and compilations[1:] == [0]
    for first, second in zip(alone, together, strict=True):
        assert first.completions.texts == second.completions.texts
        np.testing.assert_allclose(first.rewards.total, second.rewards.total, atol=1e-5)
        assert first.metrics["grad_norm"] == pytest.approx(second.metrics["grad_norm"], rel=1e-4)
    before = setup.load_model(assets.tiny_model())[1]
    start, _ = split_frozen(before, ["vision"])
    for path, value in one.trainable.items():
        moved = np.abs(value - start[path]).max()
        np.testing.assert_allclose(
            value, four.trainable[path], atol=1e-3 * moved, rtol=3e-7, err_msg=path
        )


def test_bfloat16_takes_steps(data, tmp_path):
    """As the large presets train: float32 master weights, everything else in bfloat16."""
    state, outcomes, compilations = take_steps(data, tmp_path, **{"model.dtype": "bfloat16"})
    assert {leaf.dtype.name for leaf in state.trainable.values()} == {"float32"}
    assert compilations[1] == 0
    for outcome in outcomes:
        assert 0 < outcome.metrics["sampler_drift_max"] < 0.1
        assert outcome.metrics["grad_norm"] > 0


INT8 = {"sampling.weights": "int8", "loss.importance_sampling_cap": 2.0, "group_size": 2}


def test_a_step_is_sampled_from_weights_in_int8(data, tmp_path):
    """Which the trainer sees: every token has another probability to it."""
    full = {**INT8, "sampling.weights": "full"}
    _, (exact,), _ = take_steps(data, tmp_path / "full", steps=1, **full)
    _, (outcome, _), compilations = take_steps(data, tmp_path / "int8", **INT8)
    assert compilations[1:] == [0]
    assert exact.metrics["sampler_drift_max"] < 1e-4 and exact.metrics["sampler_cut"] == 0
    assert 1e-4 < outcome.metrics["sampler_drift_mean"] < 0.05
    assert outcome.metrics["sampler_drift_max"] < 0.5 and outcome.metrics["sampler_cut"] < 0.05


def test_evaluations_of_a_run_that_samples_in_int8_have_full_weights(data, tmp_path, monkeypatch):
    sampled = []
    copy = Engine.sampler_params
    monkeypatch.setattr(
        Engine, "sampler_params", lambda *args: sampled.append(args[2]) or copy(*args)
    )
    few = {"steps": 1, "eval.pairs": 2, "eval.every": 0}
    train(tiny_config(data, **INT8 | few), LocalWorkdir(tmp_path))
    assert sampled == ["full", "int8", "full"]


def test_a_stopped_run_that_samples_in_int8_ends_in_the_same_bits(data, tmp_path, monkeypatch):
    few = {"steps": 3, "eval.pairs": 2, "eval.every": 0, "checkpoint_every": 1}
    config = tiny_config(data, **INT8 | few)
    train(config, LocalWorkdir(tmp_path / "whole"))
    train_interrupted(config, tmp_path / "stopped", monkeypatch, step=3, by=GRPO)
    assert exported_bytes(tmp_path / "stopped") == exported_bytes(tmp_path / "whole")


def test_later_updates_use_the_first_ones_logps(data, tmp_path, monkeypatch):
    """With two updates a rollout the second one's ratios have left one, and not by far."""
    gathered = grpo.make_experience

    def with_nonsense(*args):
        experience = gathered(*args)  # old log-probs come from the first update, not from here
        return experience.replace(old_logps=experience.tokens.astype("float32"))

    monkeypatch.setattr(grpo, "make_experience", with_nonsense)
    changes = {"loss.num_iterations": 2, "optimizer.clip_norm": 0.0}
    _, outcomes, _ = take_steps(data, tmp_path, steps=1, **changes)
    metrics = outcomes[0].metrics
    assert 1e-4 < abs(metrics["ratio"] - 1) < 0.25
    assert metrics["sampler_drift_max"] < 1e-4  # of the first update alone


def test_trained_tower(data, tmp_path):
    changes = {"model.freeze": (), "loss.beta": 0.0}
    state, outcomes, _ = take_steps(data, tmp_path, steps=1, **changes)
    assert not state.frozen and outcomes[0].metrics["grad_norm"] > 0
    before = setup.load_model(assets.tiny_model())[1]["vision"]["patch_embed"]["kernel"]
    assert (np.asarray(state.trainable["vision/patch_embed/kernel"]) != before).any()


def test_results_that_no_run_wrote_are_named_with_the_remedy(finished, tmp_path):
    for name in ("checkpoints", "export"):
        (tmp_path / name).symlink_to(finished[0] / name)
    for content in ({}, {"steps": 4}, finished[1] | {"before": {}}, [4]):
        (tmp_path / "results.json").write_text(json.dumps(content))
        with pytest.raises(ValueError, match="results.json: cannot be used .*; remove it, and the"):
            loop.read_results(str(tmp_path), 4)
    (tmp_path / "results.json").write_text(json.dumps(finished[1]))
    assert loop.read_results(str(tmp_path), 4) == finished[1]


def test_evaluations_of_other_names_are_nobodys_business(finished, data, tmp_path):
    """A run goes on beside what people have put into its folder, and draws its own alone."""
    workdir = tmp_path / "run"
    shutil.copytree(finished[0], workdir)
    (workdir / "curves.png").unlink()
    for name in ("step-2-test", "step-best"):
        (workdir / "eval" / f"{name}.json").write_text("{}")
    loop.delete_after(workdir, 4)
    loop.plot_run(tiny_config(data), workdir)
    assert (workdir / "curves.png").read_bytes() == (finished[0] / "curves.png").read_bytes()
    assert len(list((workdir / "eval").iterdir())) == 5


def test_ended_run_is_not_run_again(finished, data):
    with logged() as lines:
        results = train(tiny_config(data), LocalWorkdir(finished[0]))
    assert results == finished[1] and "this run has ended already" in lines[-1]
