"""What one number of processes saved, another restores, bit for bit and onto its own shards."""

import json
import shutil
from pathlib import Path

import pytest

from tests.parallel.world import World

# One after another: processes, and what they do.
WORLDS = [
    (1, "save:one"),
    (4, "restore:one,save:four"),
    (2, "restore:one,restore:four"),
    (1, "restore:four"),
]


@pytest.fixture(scope="module")
def folder(one, tmp_path_factory) -> Path:
    """With what all worlds saved and restored."""
    folder = tmp_path_factory.mktemp("checkpoints")
    shutil.copytree(one.folder, folder / "model")
    for count, tasks in WORLDS:
        with World(["tests.training.checkpoint_process", str(folder), tasks], count) as world:
            for ended in world.wait():
                assert ended.code == 0, ended.output
    return folder


@pytest.mark.parametrize(
    "name, saved_by, restored_by", [("one", 1, 4), ("one", 1, 2), ("four", 4, 2), ("four", 4, 1)]
)
def test_restored_by_another_number_of_processes(folder, name, saved_by, restored_by):
    saved = json.loads((folder / f"save-{name}-{saved_by}.json").read_text())
    restored = json.loads((folder / f"restore-{name}-{restored_by}.json").read_text())
    assert restored == saved
    assert saved.pop("place") and len(set(saved.values())) > 10
