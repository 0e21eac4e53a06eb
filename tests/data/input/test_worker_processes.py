"""Threads, workers and processes change nothing about what is loaded, bit for bit."""

import json

import jax
import numpy as np
import pytest

from lrt_jax.data.dataset.prepared_set import PreparedSet
from lrt_jax.data.input.pipeline import train_loader
from lrt_jax.data.preparation.prepare import prepare
from tests.data.input.test_pipeline import assert_equal, concatenate, take
from tests.data.input.worker_fates import killed, paused, stopped
from tests.data.preparation.test_prepare import hpd_test
from tests.data.small_encoder import ENCODER
from tests.parallel.world import told

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


@pytest.mark.parametrize(
    "threads, workers, fate",
    [(2, 0, None), (8, 0, None), (0, 2, killed), (2, 2, stopped), (8, 2, paused)],
)
def test_threads_and_workers_give_the_same_bytes_and_those_lost_are_named(
    prepared, alone, threads, workers, fate
):
    with loader(prepared, num_threads=threads, num_workers=workers) as batches:
        found = take(batches, len(alone[1]))
        if fate:
            fate(batches)
    assert_equal(found, alone[1])
    assert as_bytes(found) == as_bytes(alone[1])


@pytest.fixture(scope="module")
def together(prepared, alone, tmp_path_factory):
    """(epoch, batches after every place of one process, place after the epoch) of each process."""
    folder = tmp_path_factory.mktemp("processes")
    order = {
        "set": prepared.folder,
        "options": OPTIONS,
        "steps": STEPS,
        "places": alone[0],
    }
    return told("tests.data.input.loading_process", order, PROCESSES, folder)


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
