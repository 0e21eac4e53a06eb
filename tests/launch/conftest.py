"""A cloud that stands in for Google's, and the launcher in a repository of its own."""

import contextlib
import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.patience import LONG

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
PROGRAMS = ("python3", "python-here", "uv")
# Two workers: a v5p-16 is eight chips on two hosts.
SETTINGS = {
    "PROJECT": "my-project",
    "ZONE": "us-east5-a",
    "BUCKET": "my-bucket",
    "NAME": "run",
    "TYPE": "v5p-16",
    "POLL_SECONDS": "0.05",
    "CONNECTION_TRIES": "4",
    "STOP_SECONDS": "10",
    "TRAIN_FLAGS": "--config.steps=4 --config.mesh.tensor=2",
    "PYTHON": "python-here",
}


@dataclasses.dataclass(frozen=True)
class Cloud:
    """A stand-in cloud, and the launcher that talks to it.

    Attributes:
      folder: of the stand-in.
      repository: that holds the launcher.
    """

    folder: Path
    repository: Path

    def plan(self, **state) -> None:
        """What the cloud is like, or shall do; see `stand_in.NOTHING`."""
        path = self.folder / "cloud.json"
        before = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps(before | state))

    def plan_training(self, **plan) -> None:
        """How training shall go; see `training.py`."""
        (self.folder / "training.json").write_text(json.dumps(plan))

    def launch(self, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
        """Runs launch/tpu_vm.sh; `stdout` holds what it said, errors and all."""
        with self.begin(*arguments, **settings) as process:
            said, _ = process.communicate(timeout=LONG)
        return subprocess.CompletedProcess(process.args, process.returncode, said)

    def begin(self, *arguments: str, **settings: str) -> subprocess.Popen[str]:
        """The same, without waiting for its end."""
        environment = {
            **SETTINGS,
            "OUTPUT": str(self.folder / "output"),
            **settings,
            "HOME": str(self.folder),
            "PATH": f"{self.folder}/bin:{os.environ['PATH']}",
            "STAND_IN": str(self.folder),
        }
        command = [str(self.repository / "launch/tpu_vm.sh"), *arguments]
        pipe = subprocess.PIPE
        return subprocess.Popen(
            command, env=environment, stdout=pipe, stderr=subprocess.STDOUT, text=True
        )

    def calls(self, *words: str) -> list[list[str]]:
        """The calls of gcloud that hold all of the words."""
        path = self.folder / "calls.jsonl"
        calls = path.read_text().splitlines() if path.exists() else []
        return [call for call in map(json.loads, calls) if all(x in " ".join(call) for x in words)]

    def state(self) -> dict:
        """How the cloud is now."""
        return json.loads((self.folder / "cloud.json").read_text())

    def nothing_left(self) -> bool:
        """Whether neither request nor node is there: nobody pays."""
        state = self.state()
        return state["state"] == "ABSENT" and not state["nodes"]

    @property
    def workdir(self) -> Path:
        """Where the stand-in's bucket has the run."""
        return self.folder / "bucket/my-bucket/lrt_jax/runs/run"

    def starts(self, who: str) -> list[str]:
        """The flags of each start of training on a worker."""
        path = self.folder / f"starts-{who}"
        return path.read_text().splitlines() if path.exists() else []


@pytest.fixture(scope="session")
def repository(tmp_path_factory) -> Path:
    """A repository whose only commit is the launcher as it is here, committed or not."""
    folder = tmp_path_factory.mktemp("repository")
    shutil.copytree(ROOT / "launch", folder / "launch")
    git = ["git", "-C", str(folder), "-c", "user.name=a", "-c", "user.email=a@example.com"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "launcher"]):
        subprocess.run([*git, *command], check=True)
    return folder


@pytest.fixture
def cloud(tmp_path, repository) -> Iterator[Cloud]:
    """An empty cloud; what still trains in it at the end is ended."""
    programs = tmp_path / "bin"
    programs.mkdir()
    _program(programs / "gcloud", f'exec {sys.executable} -IS {HERE}/stand_in.py "$@"')
    for name in PROGRAMS:
        text = (HERE / "programs.sh").read_text().replace("$REAL_PYTHON", sys.executable)
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    shutil.copy(HERE / "training.py", tmp_path)
    yield Cloud(tmp_path, repository)
    for pid in tmp_path.glob("homes/*/*/lrt/train.pid"):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(int(pid.read_text()), signal.SIGKILL)


def _program(path: Path, line: str) -> None:
    path.write_text(f"#!/bin/sh\n{line}\n")
    path.chmod(0o755)
