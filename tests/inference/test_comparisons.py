"""The study of comparisons and rankings: what it counts, and what it prints."""

import pytest

from benchmarks import comparisons
from benchmarks.comparisons import GROUP, OURS, THEIRS, Speeds, Taus
from tests.inference.stub import stub_model


class OneSided:
    """Likes what is shown first, a little."""

    def __init__(self, model):
        self.model = model

    def compare_many(self, rows):
        for found in self.model.compare_many(rows):
            yield type("Answer", (), {"probability": found.probability * 0.5 + 0.3})


def test_swaps_that_do_not_add_up_are_counted():
    model, _ = stub_model()
    assert comparisons.swaps(model, 3) == 0
    assert comparisons.swaps(OneSided(model), 3) == 3
    said = comparisons.swaps_sentence(10_000, 2)
    assert said.startswith("Of 10,000 random pairs, ") and " images exchanged, 2 do not " in said


def test_rankings_by_all_images_as_anchors_are_those_by_all_pairs(monkeypatch, real_data):
    model, reader = stub_model(16)
    monkeypatch.setattr(comparisons, "ANCHORS", (1, GROUP))
    found = comparisons.ranks(model, 2, str(real_data / "hpd_gallery"))
    assert [*found] == ["scenes", "the gallery"]
    for taus in found.values():
        assert taus.groups == 2 and taus.cycles == 2  # of preferences as good as random
        assert taus.means[1] < taus.means[GROUP] == pytest.approx(1.0)
    assert sum(reader.sizes) == 2 * 2 * (28 + 7 + 28)


def test_tables():
    ways = {OURS: (40.4, 24.9), THEIRS: (8.0, 4.2)}
    table = comparisons.speed_table(Speeds(ways, 6e-7, 0)).splitlines()
    assert table[2] == f"| {OURS} | 40.4 | 24.9 |"
    assert table[-1].startswith("Batch against batch ours is 5.0 times as fast, by CPU 5.9 times.")
    assert table[-1].endswith("differ by at most 6e-07.")
    said = comparisons.speed_table(Speeds(ways, 6e-7, 2))
    assert said.endswith("at most 6e-07, but for 2 where transformers gave no answer.")
    found = {"scenes": Taus(64, 3, {1: 0.5, 2: 0.625, 4: 0.8})}
    assert (
        comparisons.ranks_table(found).splitlines()[2] == "| scenes | 64 | 3 | 0.50 | 0.62 | 0.80 |"
    )
