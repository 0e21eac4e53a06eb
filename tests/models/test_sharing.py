"""Processes that share a model: each reads its part, and together they save the whole."""

import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from lrt_jax.models import save_pretrained
from tests.parallel.world import told

PROCESSES = 2
# In the rows and columns that the first and that the last process hold.
BROKEN = {"model.embed_tokens.weight": np.inf, "model.layers.1.mlp.up_proj.weight": np.nan}


def with_bad_numbers(folder: Path, copy: Path) -> Path:
    """A copy of a checkpoint where the first or the last number of some tensors is not finite."""
    shutil.copytree(folder, copy)
    for path in copy.glob("*.safetensors"):
        tensors = load_file(path)
        for place, (name, bad) in zip((0, -1), BROKEN.items(), strict=True):
            if name in tensors:
                tensors[name].reshape(-1)[place] = bad
        save_file(tensors, path, metadata={"format": "pt"})
    return copy


@pytest.fixture(scope="module")
def together(one, tmp_path_factory):
    """What each process has told, and the folder that they saved."""
    folder = tmp_path_factory.mktemp("sharing")
    order = {
        "model": str(one.folder),
        "broken": str(with_bad_numbers(one.folder, folder / "broken")),
        "saved": str(folder / "saved"),
    }
    return told("tests.models.sharing_process", order, PROCESSES, folder), folder / "saved"


def test_each_process_reads_what_it_holds(one, together):
    whole = sum(leaf.size for leaf in jax.tree.leaves(one.params))
    for held, read, *_ in together[0]:
        assert whole / 2 < held < 0.6 * whole  # what does not divide is held by both
        assert read == held


def test_processes_save_what_one_saves(one, together, tmp_path):
    save_pretrained(one.params, tmp_path / "one", source=one.folder, max_shard_size="60KB")
    alone = {path.name: path.read_bytes() for path in (tmp_path / "one").iterdir()}
    assert {path.name: path.read_bytes() for path in together[1].iterdir()} == alone
    assert sum(name.endswith(".safetensors") for name in alone) > 2
    for _, _, there, *_ in together[0]:  # for each, as soon as it goes on
        assert there == sorted(alone)


def test_every_process_names_the_same_bad_tensors(together):
    said = {message.partition(": ")[2] for *_, message, _ in together[0]}
    assert said == {
        "not all numbers are finite in model.layers.{}.mlp.up_proj.weight, "
        "model.embed_tokens.weight"
    }


def test_without_a_mesh_each_process_has_its_own(one, together):
    for *_, alone in together[0]:
        jax.tree.map(np.testing.assert_array_equal, alone, jax.tree.leaves(one.params))
