"""Completions as they travel between the hosts of a run."""

import dataclasses

import jax
import numpy as np
import pytest

from lrt_jax.parallel import processes
from lrt_jax.parallel.mesh import make_mesh
from lrt_jax.rl import completions as module
from lrt_jax.rl.completions import WIDTH, Completions, all_gather_completions
from lrt_jax.rl.rollout import Rollout


def completions(texts):
    shape = (len(texts), len(texts[0]))
    return Completions(
        texts=texts,
        traces=[[text[::-1] for text in row] for row in texts],
        well_formed=np.ones(shape, bool),
        choice=np.arange(shape[0] * shape[1], dtype=np.int8).reshape(shape),
        answer_position=np.full(shape, 2**30, np.int32),
        length=np.full(shape, 3, np.int32),
        truncated=np.zeros(shape, bool),
        nucleus_mass=np.full(shape, 0.1, np.float32),
    )


@pytest.mark.parametrize(
    "texts",
    [
        [["a", ""], ["ü\0", "end\0\0"]],
        [["x" * (WIDTH - 1), "a"]],
        [["a", "ü" * WIDTH]],
        [["x" * 5 * WIDTH, "y"]],
    ],
)
def test_texts_of_any_length_and_end_come_back_as_they_were(texts, monkeypatch):
    """One process that takes itself for two: what it sends, it receives."""
    said, mesh = completions(texts), make_mesh(devices=jax.devices()[:1])
    assert all_gather_completions(said, mesh) is said
    widths = []

    def all_gather_rows(tree, over):
        assert over is mesh
        if isinstance(tree, tuple):
            widths.extend(x.dtype.itemsize for x in tree[1].values())
        return tree

    monkeypatch.setattr(processes, "count", lambda: 2)
    monkeypatch.setattr(module, "all_gather_rows", all_gather_rows)
    got = all_gather_completions(said, mesh)
    for field in dataclasses.fields(Completions):
        ours, theirs = getattr(got, field.name), getattr(said, field.name)
        np.testing.assert_array_equal(ours, theirs, err_msg=field.name)
    longest = max(len(text.encode()) + 1 for row in texts for text in row)
    assert set(widths) == {max(WIDTH, 2 ** int(np.ceil(np.log2(longest))))}  # few programs


def test_a_place_holds_a_token_up_to_the_length():
    tokens, length = np.zeros((1, 2, 5), np.int32), np.array([[2, 5]])
    ones = np.ones(tokens.shape, np.float32)
    mask = Rollout(tokens, ones, ones, length, length < 5).mask
    assert mask.tolist() == [[[True, True, False, False, False], [True] * 5]]
