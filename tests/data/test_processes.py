"""Threads, workers and processes change nothing about what is loaded, bit for bit."""

import json
import pickle
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from lrt_jax.data.build import prepare
from lrt_jax.data.pipeline import train_loader
from lrt_jax.data.tables import PreparedSet
from tests.data.small_encoder import ENCODER
from tests.data.test_build import hpd_test
from tests.data.test_pipeline import assert_equal, concatenate, take

PROCESSES, STEPS = 4, 4
OPTIONS = {"split": "test", "batch_size": 4, "seed": 5}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """8 groups of 3 images: 16 pairs without a tie, which are 4 batches."""
    folder = tmp_path_factory.mktemp("set")
    prepare("hpdv2", hpd_test(folder / "in", groups=8), folder / "out")
    return PreparedSet(folder / "out")


def loader(prepared, **options):
    return train_loader(prepared, ENCODER, **OPTIONS | {"num_threads": 0} | options)


def as_bytes(batches):
    return [[leaf.tobytes() for leaf in jax.tree.leaves(batch)] for batch in batches]


@pytest.fixture(scope="module")
def alone(prepared):
    """Places and batches of one process: `batches[i]` comes after `places[i]`."""
    places, batches = [], []
    with loader(prepared) as stream:
        for _ in range(STEPS + 3):
            places.append(json.loads(json.dumps(stream.get_state())))
            batches.append(next(stream))
    return places, batches


@pytest.mark.parametrize("threads, workers", [(2, 0), (8, 0), (0, 2), (2, 2), (8, 2)])
def test_threads_and_workers_give_the_same_bytes(prepared, alone, threads, workers):
    with loader(prepared, num_threads=threads, num_workers=workers) as batches:
        found = take(batches, len(alone[1]))
    assert_equal(found, alone[1])
    assert as_bytes(found) == as_bytes(alone[1])


@pytest.fixture(scope="module")
def together(prepared, alone, tmp_path_factory):
    """(epoch, batches after every place of one process, place after the epoch) of each process."""
    folder = tmp_path_factory.mktemp("processes")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    order = {
        "address": address,
        "count": PROCESSES,
        "set": prepared.folder,
        "options": OPTIONS,
        "steps": STEPS,
        "places": alone[0],
    }
    running = []
    for index in range(PROCESSES):
        mine = order | {"index": index, "output": str(folder / f"{index}.pickle")}
        command = [sys.executable, "-m", "tests.data.loading_process", json.dumps(mine)]
        root = Path(__file__).parents[2]
        running.append(subprocess.Popen(command, cwd=root, stderr=subprocess.PIPE, text=True))
    try:
        for process in running:
            _, errors = process.communicate(timeout=120)
            assert process.returncode == 0, errors
    finally:
        for process in running:
            process.kill()
    return [pickle.loads((folder / f"{i}.pickle").read_bytes()) for i in range(PROCESSES)]


def test_real_processes_see_every_pair_of_an_epoch_once(prepared, together):
    rows = np.concatenate([b.target.pair for epoch, _, _ in together for b in epoch])
    uids = sorted(prepared.pair(int(row)).uid for row in rows)
    expected = [prepared.pair(row).uid for row in range(24) if prepared.labels[row] in (0, 1)]
    assert uids == sorted(expected) and len(uids) == 16


def test_real_processes_hold_parts_of_the_same_batches(alone, together):
    epochs = [epoch for epoch, _, _ in together]
    assert_equal([concatenate(step) for step in zip(*epochs, strict=True)], alone[1][:STEPS])


def test_real_processes_go_on_from_anywhere(alone, together):
    """Where one process stopped, at any step, four go on."""
    resumed = [batches for _, batches, _ in together]
    assert_equal([concatenate(step) for step in zip(*resumed, strict=True)], alone[1])


@pytest.mark.parametrize("count", [1, 2])
def test_fewer_processes_go_on_where_four_stopped(prepared, alone, together, count):
    parts = []
    for index in range(count):
        with loader(prepared, process_index=index, process_count=count) as mine:
            mine.set_state(together[count][2])
            parts.append(take(mine, 3))
    assert_equal([concatenate(step) for step in zip(*parts, strict=True)], alone[1][STEPS:])
