"""What is told before money is spent: `check`, and settings that cannot be."""

import os
import subprocess
import sys

import pytest

from tests.launch.conftest import ROOT


def test_all_is_there(cloud):
    run = cloud.launch("check")
    assert run.returncode == 0, run.stdout
    assert "8 chips on 2 workers, about $33.60 an hour" in run.stdout
    assert "all is there" in run.stdout


@pytest.mark.parametrize(
    ("question", "answer", "told"),
    [
        ("auth list", "", "nobody is logged in: gcloud auth login"),
        ("billing projects describe", "False", "has no billing account"),
        ("services list", "", "gcloud services enable tpu.googleapis.com --project=my-project"),
        ("accelerator-types list", "v6e-8", "zone us-east5-a has no v5p-16, but: v6e-8"),
        ("quotas info describe", "us-east5-a,4", "in us-east5-a is 4, and 8 chips are wanted"),
        ("buckets describe", "", "gcloud storage buckets create gs://my-bucket"),
        ("buckets describe", "EUROPE-WEST4", "is in europe-west4, and the TPU in us-east5"),
    ],
)
def test_what_is_missing_is_told_with_its_remedy(cloud, question, answer, told):
    cloud.plan(answers={question: answer})
    run = cloud.launch("check")
    assert run.returncode == 1
    assert "1 of these must be mended first" in run.stdout
    assert told in run.stdout


def test_all_problems_are_told_at_once(cloud):
    cloud.plan(answers={"auth list": "", "quotas info describe": "us-east5-a,0"})
    run = cloud.launch("check", BUCKET="", WORKDIR="/mnt/run")
    assert "4 of these must be mended first" in run.stdout
    assert "WORKDIR=/mnt/run: name a folder of a bucket" in run.stdout


def test_a_config_that_could_not_train_rents_nothing(cloud):
    told = "error: the config cannot be run:\n  data.path: not set"
    (cloud.folder / "config-is-wrong").write_text(told)
    for command in ("check", "create", "watch"):
        run = cloud.launch(command)
        assert run.returncode == 1
        assert "would not train" in run.stdout and "     |   data.path: not set" in run.stdout
    assert not cloud.calls("queued-resources create")
    (cloud.folder / "config-is-wrong").write_text("ModuleNotFoundError: No module named 'absl'")
    assert "must have this project: pip install -e" in cloud.launch("check").stdout


@pytest.mark.parametrize(
    ("settings", "code", "told"),
    [
        ({}, 1, "data.path: not set; name the folder"),
        (
            {"DATA": "gs://b/d"},
            0,
            "preset 7b fits 64 chips: data 1 x fsdp 8 x attn_dp 2 x tensor 4",
        ),
        ({"DATA": "gs://b/d", "TRAIN_FLAGS": "--config.batch_size=63"}, 1, "63 rows at a time"),
        ({"DATA": "gs://b/d", "TRAIN_FLAGS": "--config.mesh.tensor=5"}, 1, "there are 64; set"),
        ({"DATA": "gs://b/d", "CONFIG": "configs/imagereward.py"}, 0, "preset 7b fits 64 chips"),
    ],
)
def test_the_config_is_checked_as_a_worker_would_run_it(tmp_path, settings, code, told):
    """The real check, for the chips of a v5litepod-64."""
    common = {"CONFIG": "configs/imagereward.py:7b", "WORKDIR": "gs://b/run", "HOME": str(tmp_path)}
    command = ["bash", str(ROOT / "launch/worker.sh"), "check", "64"]
    environment = os.environ | common | {"PYTHON": sys.executable} | settings
    run = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert run.returncode == code, run.stderr
    assert told in run.stdout + run.stderr


FITS = "memory: 11.9 GiB at update, of 14.2: fits\nstep: 17.0 s"
TOO_LARGE = "memory: 36.2 GiB at update, of 14.2: does not fit\n  change: loss.microbatches=8"


def test_a_run_that_fits_its_chips(cloud):
    (cloud.folder / "plan").write_text(FITS)
    run = cloud.launch("check", TRAIN_FLAGS="--config.steps=4 --allow_changes")
    assert run.returncode == 0
    assert "on v5p:2x2x2: memory: 11.9 GiB at update, of 14.2: fits" in run.stdout
    flags = (cloud.folder / "plan-flags").read_text().split()
    assert flags[2:] == [
        *("--config=configs/imagereward.py:7b", "--topology=v5p:2x2x2", "--slices=1"),
        "--config.steps=4",
    ]


def test_a_run_that_does_not_fit_its_chips_must_be_changed(cloud):
    (cloud.folder / "plan").write_text(TOO_LARGE)
    run = cloud.launch("check")
    assert run.returncode == 1 and "1 of these must be mended first" in run.stdout
    assert "     |   change: loss.microbatches=8" in run.stdout


@pytest.mark.parametrize(
    ("plan", "settings", "told"),
    [
        (None, {}, "has no libtpu"),
        ("error: another process uses libtpu", {}, "could not be looked at: error: another"),
        (FITS, {"TYPE": "v5p-24"}, "memory is not looked at"),
        (FITS, {"MODEL": "gs://my-bucket/model"}, "memory is not looked at"),
    ],
)
def test_memory_that_nobody_can_look_at_is_no_reason_to_stop(cloud, plan, settings, told):
    (cloud.folder / "bucket/my-bucket/model").mkdir(parents=True)
    if plan:
        (cloud.folder / "plan").write_text(plan)
    answers = {"accelerator-types list": "v5p-16\nv5p-24", "quotas info": "us-east5-a,64"}
    cloud.plan(answers=answers)
    run = cloud.launch("check", **settings)
    assert run.returncode == 0, run.stdout
    assert told in run.stdout


def test_a_plan_that_takes_too_long_is_told_as_such(cloud):
    """It has said nothing of an error then."""
    (cloud.folder / "plan").write_text("1/9 copy: compiled in 3 s, 4.0 GiB; 3 s in all\n")
    (cloud.folder / "plan-hangs").touch()
    run = cloud.launch("check", PLAN_SECONDS="2")
    assert run.returncode == 0, run.stdout
    assert "could not be looked at: it took longer than PLAN_SECONDS=2" in run.stdout


@pytest.mark.parametrize(
    ("kind", "topology"),
    [
        ("v5litepod-64", "v5e:8x8"),
        ("v5litepod-8", "v5e:2x4"),
        ("v6e-256", "v6e:16x16"),
        ("v5p-128", "v5p:4x4x4"),
        ("v4-8", "v4:2x2x1"),
    ],
)
def test_topologies(cloud, kind, topology):
    assert f"--topology {topology}" in plan_command(cloud, kind)


def plan_command(cloud, kind: str) -> str:
    """What a dry run would ask for the plan, its topology after --topology."""
    lines = cloud.launch("--dry-run", "check", TYPE=kind).stdout.splitlines()
    [command] = [line for line in lines if "worker.sh plan" in line]
    return command.replace(" plan ", " --topology ")


def test_a_dry_run_marks_what_it_supposes(cloud):
    said = cloud.launch("--dry-run", "check").stdout
    assert "ok   account" not in said and "all is there" not in said
    assert "?    supposed: account me@example.com" in said
    assert "nobody was asked" in said


def test_data_that_are_not_in_the_bucket(cloud):
    settings = {"DATA": "gs://my-bucket/prepared", "MODEL": "gs://my-bucket/model"}
    (cloud.folder / "bucket/my-bucket/model").mkdir(parents=True)
    for command in ("check", "watch"):
        run = cloud.launch(command, **settings)
        assert run.returncode == 1
        assert "DATA=gs://my-bucket/prepared: nothing is there that you may see" in run.stdout
        assert "MODEL" not in run.stdout
    assert not cloud.calls("queued-resources create")
    (cloud.folder / "bucket/my-bucket/prepared").mkdir()
    assert cloud.launch("check", **settings).returncode == 0


def test_a_quota_that_cannot_be_read_is_no_reason_to_stop(cloud):
    cloud.plan(answers={"quotas info describe": "us-west1-c,64"})
    run = cloud.launch("check")
    assert run.returncode == 0
    assert "could not be read for us-east5-a" in run.stdout


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"TYPE": "v7-8"}, "TYPE=v7-8: not v4-N, v5p-N, v5litepod-N or v6e-N"),
        ({"MODE": "cheap"}, "MODE=cheap: not spot, on-demand or reserved"),
        ({"TYPE": "v5litepod-7"}, "TYPE=v5litepod-7: slices have 1, 4, 8, 16,"),
        ({"TYPE": "v5p-12"}, "TYPE=v5p-12: not a multiple of 8 cores"),
        ({"NAME": "My Run"}, "NAME=My Run: small letters"),
        ({"NAME": "run-"}, "NAME=run-: small letters, digits and dashes, no dash at the end"),
        ({"SLICES": "0"}, "SLICES=0: not a number of 1 or more"),
        ({"MAX_COST": "7 USD"}, "MAX_COST=7 USD: not a number"),
        ({"PRICE": "cheap"}, "PRICE=cheap: not a number"),
        ({"PRICE": "0.0"}, "PRICE=0.0: MAX_COST would never be reached"),
        ({"KEEP_ON_FAILURE": "no"}, "KEEP_ON_FAILURE=no: not 0 or 1"),
        ({"BUCKET": "gs://my-bucket"}, "BUCKET=gs://my-bucket: not the name of a bucket, without"),
        ({"DATA": "prepared"}, "DATA=prepared: not a folder in a bucket"),
        ({"PARALLEL": "0"}, "PARALLEL=0: not a number of 1 or more"),
        ({"COMMIT": "nowhere"}, "COMMIT=nowhere: there is no such commit"),
    ],
)
def test_settings_that_cannot_be(cloud, settings, told):
    run = cloud.launch("create", **settings)
    assert run.returncode == 1
    assert told in run.stdout
    assert not cloud.calls()


def test_a_run_that_would_not_outlive_its_nodes_is_not_watched(cloud):
    run = cloud.launch("watch", WORKDIR="/mnt/run")
    assert run.returncode == 1
    assert "WORKDIR=/mnt/run: name gs://BUCKET/FOLDER" in run.stdout
    assert not cloud.calls("queued-resources create")


@pytest.mark.parametrize(
    ("kind", "chips", "workers"),
    [
        ("v5litepod-8", 8, 1),
        ("v5litepod-64", 64, 16),
        ("v6e-16", 16, 4),
        ("v5p-8", 4, 1),
        ("v5p-128", 64, 16),
        ("v4-32", 16, 4),
    ],
)
def test_chips_and_hosts(cloud, kind, chips, workers):
    told = cloud.launch("--dry-run", "check", TYPE=kind).stdout
    assert f"{chips} chips on {workers} workers" in told


def test_an_argument_that_means_nothing_starts_nothing(cloud):
    run = cloud.launch("watch", "--dryrun")
    assert run.returncode == 2
    assert "error: watch takes no --dryrun" in run.stdout
    assert not cloud.calls()


def test_an_unknown_command(cloud):
    run = cloud.launch("explode")
    assert run.returncode == 2
    assert "usage:" in run.stdout
