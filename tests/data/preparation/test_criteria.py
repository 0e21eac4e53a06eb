"""A model is asked one question: pairs that were judged by another are no data for it."""

import pytest

from lrt_jax.data.dataset.prepared_set import PreparedSet
from lrt_jax.data.preparation.prepare import prepare
from tests.data.own_folder import own_folder
from tests.data.preparation.test_near_duplicates import landscape


@pytest.fixture
def source(tmp_path):
    shown = landscape(0), landscape(1)
    rows = [
        ("a caption", *shown, {"criterion": "alignment"}),
        ("a caption", *shown, {"criterion": "style", "winner": 1}),
        ("paper lanterns", landscape(2), landscape(3), {"criterion": "style"}),
    ]
    return own_folder(tmp_path / "in", rows)


def test_one_criterion_is_named(source, tmp_path):
    with pytest.raises(ValueError, match=r"alignment \(1 groups\), style \(2 groups\); name one"):
        prepare("folder", source, tmp_path / "out")
    with pytest.raises(ValueError, match="name one of these"):
        prepare("folder", source, tmp_path / "out", criterion="beauty")


def test_pairs_judged_by_others_are_left_out_and_counted(source, tmp_path):
    report = prepare("folder", source, tmp_path / "out", criterion="style")
    assert (report.pairs, report.conflicts, report.criteria) == (2, 0, {"style": 2})
    left_out = "groups that were judged by another criterion than style: 1 left out"
    assert [note for note in report.notes if "criterion" in note] == [left_out]
    assert {PreparedSet(tmp_path / "out").pair(row).criterion for row in (0, 1)} == {"style"}
