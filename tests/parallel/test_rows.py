"""Rows that travel between processes arrive in order and as they were."""

import pickle

import numpy as np
import pytest

from tests.parallel.rows_process import TEXTS, WHOLE
from tests.parallel.world import World


@pytest.fixture(scope="module", params=[0, 1])
def found(request, both_have):
    """What one of two processes has."""
    return request.param, both_have[request.param]


@pytest.fixture(scope="module")
def both_have(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rows")
    with World(["tests.parallel.rows_process", str(folder)], 2) as world:
        for ended in world.wait():
            assert ended.code == 0, ended.output
    return [pickle.loads((folder / f"{i}.pickle").read_bytes()) for i in range(2)]


def test_numbers_of_any_kind_arrive_bit_for_bit(found):
    for name, rows in WHOLE.items():
        got = found[1]["rows"][name]
        assert got.dtype == rows.dtype and got.tobytes() == rows.tobytes(), name


def test_texts_of_any_length_arrive(found):
    """Longer than the usual place, with zeros at the end, of more than one byte a character."""
    got = found[1]["completions"]
    assert got.texts == [*TEXTS[0], *TEXTS[1]]
    assert got.traces == [[text[::-1] for text in row] for row in got.texts]
    assert got.choice.tolist() == [[0, 0], [0, 0], [1, 1], [1, 1]]
    assert got.choice.dtype == np.int8 and got.nucleus_mass.dtype == np.float32


def test_every_process_holds_its_own_rows(found):
    index, got = found
    own = WHOLE["doubles"].astype(np.float32)[2 * index :][:2]
    np.testing.assert_array_equal(got["there and back"], own)
    np.testing.assert_array_equal(got["whole"], own)


def test_what_one_says_all_hear(found):
    assert found[1]["anywhere"] == [True, False]
    assert found[1]["told"] == {"index": 0}
