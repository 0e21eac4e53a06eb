"""The picture of a prepared set shows pairs of every split, with captions and votes."""

import subprocess
import sys

import numpy as np
from PIL import Image

from lrt_jax.data.dataset.prepared_set import PreparedSet
from lrt_jax.data.preparation.prepare import prepare
from lrt_jax.reporting import contact_sheet
from lrt_jax.reporting.contact_sheet import draw_pairs
from tests.data.preparation.test_prepare import hpd_test
from tests.training.small_run import write_hpdv2


def test_pairs_of_every_split_are_drawn(tmp_path, monkeypatch):
    fractions = {"train": 0.6, "test": 0.4}
    prepare(
        "hpdv2",
        write_hpdv2(tmp_path / "in"),
        tmp_path / "out",
        split_fractions=fractions,
        near_duplicates="keep",
    )
    prepared, drawn = PreparedSet(tmp_path / "out"), []
    draw = contact_sheet._draw_pair

    def noting(part, prepared, pair):
        drawn.append(pair)
        draw(part, prepared, pair)

    monkeypatch.setattr(contact_sheet, "_draw_pair", noting)
    draw_pairs(prepared, tmp_path / "pairs.png", count=6)
    assert {pair.split for pair in drawn} == {"train", "test"}
    assert len({pair.prompt for pair in drawn}) == len(drawn) == 6
    with Image.open(tmp_path / "pairs.png") as picture:
        assert picture.width > 1000
        assert len(np.unique(np.asarray(picture.convert("RGB")).reshape(-1, 3), axis=0)) > 1000


def test_the_command_shows_the_report_and_draws(tmp_path):
    prepare("hpdv2", hpd_test(tmp_path / "in"), tmp_path / "out")
    done = subprocess.run(
        [sys.executable, "-m", "lrt_jax.prepare", f"--inspect={tmp_path / 'out'}"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "build_report.md").read_text() in done.stdout
    assert (tmp_path / "out" / "pairs.png").is_file()
    assert f"pairs: {tmp_path / 'out' / 'pairs.png'}" in done.stdout
