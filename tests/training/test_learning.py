"""That runs learn: on a few captions of scenes, over a few steps, beyond noise."""

import dataclasses
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from lrt_jax import assets
from lrt_jax.config.scenes import ScenesOptions
from lrt_jax.data.scenes.write import write_scenes
from lrt_jax.data.schema import NO_CHOICE
from lrt_jax.evaluation.evaluator import predictions_from_dict
from lrt_jax.evaluation.metrics import cluster_bootstrap
from lrt_jax.evaluation.predictions import is_correct
from lrt_jax.models import load_model
from lrt_jax.reporting.metrics import read_metrics
from lrt_jax.rl.learner import split_frozen
from tests.compiling import FAST
from tests.parallel.world import ROOT
from tests.patience import LONG

# No KL term, since few pairs may be learnt by heart, and the full rate from the first step on.
FREE = {"loss.beta": 0.0, "optimizer.schedule": "constant", "optimizer.warmup_steps": 0}
FEW = ScenesOptions(seed=3, train=16, validation=16, test=1, rating_noise=0.0, traces=4)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    return write_scenes(tmp_path_factory.mktemp("few") / "scenes", FEW)


def learn(folder, workdir, xla_flags="", **changes) -> dict:
    """Results of a run of the main job, by a process of its own: one device, compiled with care.

    What is compiled in haste, as elsewhere in the tests, takes many steps twice as long.
    """
    few = {
        "data.source": "scenes",
        "data.path": folder,
        "steps": 24,
        "batch_size": 16,
        "data.threads": 2,
        "optimizer.learning_rate": 1e-3,
        "checkpoint_every": 0,
        "completions_every": 0,
        "eval.pairs": 64,
        "eval.batch_size": 128,
        "eval.others": (),
        "eval.held_out_listener": None,
    }
    fields = [f"--config.{name}={value}" for name, value in (few | changes).items()]
    command = ["lrt_jax.main", "--config=configs/imagereward.py:tiny", f"--workdir={workdir}"]
    run = subprocess.run(
        [sys.executable, "-m", *command, *fields],
        cwd=ROOT,
        env=os.environ | {"XLA_FLAGS": xla_flags},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=LONG,
    )
    assert run.returncode == 0, run.stdout
    return json.loads((workdir / "results.json").read_text())


def rise(values) -> tuple[float, float]:
    """Gain from the first third to the last, and its standard error."""
    third = len(values) // 3
    first, last = np.array(values[:third]), np.array(values[-third:])
    error = np.sqrt(first.var(ddof=1) / third + last.var(ddof=1) / third)
    return float(last.mean() - first.mean()), float(error)


def reward_gain(workdir) -> list[float]:
    """Interval of what the samples' form and accuracy would be paid more, in pairs."""
    pays = []
    for step in (0, 24):
        content = json.loads((workdir / "eval" / f"step-{step:06}.json").read_text())
        judged = predictions_from_dict(content["judgements"]["sampled"])
        order = np.lexsort(judged.keys.T)
        pays.append(((judged.choice != NO_CHOICE) + 0.5 * is_correct(judged))[order])
    return cluster_bootstrap(pays[1] - pays[0], np.ones(len(order)), judged.cluster[order])


def test_listener_grpo_raises_the_reward(tmp_path):
    """Every step is on the same 18 pairs, so that no step has easier ones than another."""
    scenes = write_scenes(tmp_path / "scenes", dataclasses.replace(FEW, train=3))
    few = {"steps": 36, "batch_size": 18, "eval.pairs": 2, "eval.batch_size": 4}
    learn(scenes, tmp_path / "run", **few, **FREE)
    gain, error = rise([line["reward/total/mean"] for line in read_metrics(tmp_path / "run")])
    assert gain > 3 * error, (gain, error)


def test_sft_on_true_traces_raises_the_reward(scenes, tmp_path):
    known = shutil.copytree(scenes, tmp_path / "known")
    _validate_on_copies(known)
    changes = {"algorithm": "sft", "group_size": 2}
    results = learn(known, tmp_path / "run", **changes)
    before, after = results["before"], results["after"]
    losses = [line["loss"] for line in read_metrics(tmp_path / "run")]
    gain, error = rise([-loss for loss in losses])
    assert gain > 3 * error, losses
    low, _ = reward_gain(tmp_path / "run")
    assert low > 0, (before["accuracy"], after["accuracy"])


def _validate_on_copies(folder):
    """Makes the validation split what is trained on, in other files: else it would be refused."""
    rows = pq.read_table(folder / "metadata-train.parquet").to_pylist()
    truth = [json.loads(line) for line in (folder / "truth.jsonl").read_text().splitlines()]
    known = {line["key"]: line for line in truth}
    for row in rows:
        content = (folder / row["image_path"]).read_bytes()
        copy = io.BytesIO()
        Image.open(io.BytesIO(content)).save(copy, "PNG", compress_level=0)
        row["image_path"] = row["image_path"].replace("/train/", "/validation/")
        (folder / row["image_path"]).write_bytes(copy.getvalue())
        digests = (hashlib.sha256(data).hexdigest() for data in (content, copy.getvalue()))
        truth.append(known[next(digests)] | {"key": next(digests)})
    (folder / "truth.jsonl").write_text("".join(json.dumps(line) + "\n" for line in truth))
    pq.write_table(pa.Table.from_pylist(rows), folder / "metadata-validation.parquet")


def test_swapped_labels_make_the_accuracy_fall(tmp_path):
    turned = write_scenes(tmp_path / "turned", dataclasses.replace(FEW, validation=48))
    path = turned / "metadata-train.parquet"
    rows = pq.read_table(path).to_pylist()
    path.unlink()
    pq.write_table(pa.Table.from_pylist([{**r, "rank": 5 - r["rank"]} for r in rows]), path)
    results = learn(turned, tmp_path / "run", steps=48, batch_size=8, **FREE, **{"eval.pairs": 128})
    _, high = results["after"]["accuracy_gain_ci95"]
    assert high < 0, results["after"]["accuracy_gain"]


def test_sft_at_zero_learning_rate_leaves_parameters_untouched(scenes, tmp_path):
    changes = {
        "algorithm": "sft",
        "steps": 1,
        "group_size": 2,
        "batch_size": 4,
        "eval.pairs": 2,
        "eval.batch_size": 4,
        "optimizer.learning_rate": 0.0,
        "optimizer.warmup_steps": 0,
    }
    learn(scenes, tmp_path / "run", FAST, **changes)
    before, after = (
        split_frozen(load_model(folder)[1], ())[0]
        for folder in (assets.tiny_model(), tmp_path / "run" / "export")
    )
    for path, leaf in before.items():
        np.testing.assert_array_equal(after[path], leaf, err_msg=path)
