"""A pair's target: what people said, in the order in which the images are shown."""

import dataclasses

import numpy as np
import pytest

from lrt_jax.data.input.pairs import PairSource, RawPair, target
from lrt_jax.data.schema import FIRST, SECOND, TIE, UNLABELLED
from tests.algorithms.test_sft import RECORD
from tests.bad_input.data_sets import png
from tests.data.small_encoder import ENCODER


@pytest.mark.parametrize(
    "label, turned", [(FIRST, SECOND), (SECOND, FIRST), (TIE, TIE), (UNLABELLED, UNLABELLED)]
)
def test_a_swapped_pair_turns_label_and_share(label, turned):
    record = dataclasses.replace(RECORD, label=label, p_first=0.75)
    shown, swapped = target(record, 7, False, 0.5), target(record, 7, True, 0.5)
    assert (shown.label, swapped.label) == (label, turned)
    assert (shown.p_first, swapped.p_first) == (0.75, 0.25)
    assert shown.pair == swapped.pair == 7 and shown.weight == swapped.weight == 0.5
    assert not shown.swapped and swapped.swapped


def test_a_pair_counts_once_where_nothing_is_said_of_its_weight():
    images = png(40, 30), png(30, 40)
    assert target(RECORD, 0, False).weight == 1.0
    pair = RawPair(-1, RECORD, images, ("a", "b"))
    assert pair.weight == 1.0
    example = ENCODER.encode(pair, False)
    assert example.target.pair == -1 and example.target.weight == 1.0


def test_a_source_gives_each_of_its_rows_its_weight():
    class Prepared:
        def pair(self, row):
            return dataclasses.replace(RECORD, uid=str(row), image_index=(row, row + 1))

        def image(self, index):
            from types import SimpleNamespace

            return SimpleNamespace(image=bytes([index]), key=f"key {index}")

    rows = np.array([5, 2])
    assert [pair.weight for pair in PairSource(Prepared(), rows)] == [1.0, 1.0]
    source = PairSource(Prepared(), rows, np.array([0.25, 4.0]))
    assert len(source) == 2
    assert [(x.row, x.record.uid, x.weight) for x in source] == [(5, "5", 0.25), (2, "2", 4.0)]
    assert source[0].images == (b"\x05", b"\x06") and source[1].keys == ("key 2", "key 3")
