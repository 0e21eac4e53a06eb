"""A prepared set is opened as it was prepared, or refused with the file that is another."""

import io
import json
import pickle
import shutil
import sys

import numpy as np
import pytest
from array_record.python.array_record_module import ArrayRecordReader
from tensorflow_datasets.proto import tf_example_pb2

from lrt_jax.data.dataset import prepared_set, set_files
from lrt_jax.data.dataset.prepared_set import PreparedSet
from lrt_jax.data.preparation.prepare import prepare
from tests.data.preparation.test_prepare import hpd_test
from tests.logs import logged

SHARD_BYTES = 20_000  # so that there are some


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    folder = tmp_path_factory.mktemp("set_files")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prepared_set, "SHARD_BYTES", SHARD_BYTES)
        prepare("hpdv2", hpd_test(folder / "in"), folder / "out")
    return folder / "out"


def test_the_same_records_are_the_same_bytes_in_every_process(original):
    """The order of a record's fields is a process's own where nobody says it."""
    for path in original.glob("*/*.array_record-*"):
        reader = ArrayRecordReader(str(path))
        for record in reader.read_all():
            example = tf_example_pb2.Example.FromString(record)
            assert record == example.SerializeToString(deterministic=True)
        reader.close()


@pytest.fixture
def folder(original, tmp_path):
    return shutil.copytree(original, tmp_path / "set")


def test_a_features_file_runs_no_code(folder, tmp_path, monkeypatch):
    (tmp_path / "prepared_evil.py").write_text("raise SystemExit('imported')\n")
    monkeypatch.syspath_prepend(tmp_path)
    for table in ("images", "pairs"):
        path = folder / table / "features.json"
        content = json.loads(path.read_text())
        content["pythonClassName"] = "prepared_evil.Features"
        path.write_text(json.dumps(content))
    prepared = PreparedSet(folder)
    assert prepared.pair(0).votes == (2.0, 0.0) and prepared.image(0).image
    assert "prepared_evil" not in sys.modules


def turn_labels(folder):
    path = folder / prepared_set.COLUMNS
    with np.load(io.BytesIO(path.read_bytes())) as columns:
        turned = {**columns, "label": 1 - columns["label"], "p_first": 1 - columns["p_first"]}
    np.savez(path, **turned)
    return path


def swap_shards(folder):
    one, other = sorted((folder / "images").glob("*.array_record-*"))[:2]
    content, rest = one.read_bytes(), other.read_bytes()
    one.write_bytes(rest)
    other.write_bytes(content)
    return one


def flip_a_byte(folder):
    path = max((folder / "pairs").glob("*.array_record-*"))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    return path


def cut_the_looks(folder):
    path = folder / prepared_set.LOOKS
    path.write_bytes(path.read_bytes()[:-1])
    return path


def remove_a_shard(folder):
    path = min((folder / "images").glob("*.array_record-*"))
    path.unlink()
    return path


CHANGES = (turn_labels, swap_shards, flip_a_byte, cut_the_looks, remove_a_shard)


@pytest.mark.parametrize("change", CHANGES)
def test_another_file_is_refused_by_name(folder, change):
    PreparedSet(folder)
    path = change(folder)
    with pytest.raises(ValueError, match=f"{path.name}: n.*the prepared set again, or prepare it"):
        PreparedSet(folder)


def test_files_that_fit_a_changed_report_are_another_set(folder):
    turn_labels(folder)
    path = folder / prepared_set.REPORT
    report = json.loads(path.read_text())
    files = set_files.recorded_files(folder, {}, (prepared_set.COLUMNS,))
    report["files"][prepared_set.COLUMNS] = files[prepared_set.COLUMNS]
    path.write_text(json.dumps(report))
    with pytest.raises(ValueError, match="build_report.json: its fingerprint is not that of its"):
        PreparedSet(folder)
    old = report["fingerprint"]
    splits = {name: split["pairs"] for name, split in report["splits"].items()}
    report["fingerprint"] = set_files.fingerprint(report["records_digest"], report["files"], splits)
    path.write_text(json.dumps(report))
    assert PreparedSet(folder).fingerprint != old


def test_splits_that_are_not_those_of_the_columns_are_refused(folder):
    """The columns' rows are theirs in order, which a program that sorts keys would change."""
    path = folder / "build_report.json"
    report = json.loads(path.read_text())
    report["splits"] = {"first": {"pairs": 0}} | report["splits"]
    path.write_text(json.dumps(report))
    with pytest.raises(ValueError, match="not that of its files and splits"):
        PreparedSet(folder)
    one, other = {"train": 1, "test": 2}, {"test": 2, "train": 1}
    assert set_files.fingerprint("", {}, one) != set_files.fingerprint("", {}, other)


def test_a_report_without_files_is_refused_by_name(folder):
    path = folder / prepared_set.REPORT
    report = json.loads(path.read_text())
    del report["files"]
    path.write_text(json.dumps(report))
    with pytest.raises(ValueError, match="build_report.json: cannot be used .*prepare it anew"):
        PreparedSet(folder)


def test_a_shard_that_breaks_under_way_is_named(folder):
    prepared = PreparedSet(folder)
    shards = sorted((folder / "images").glob("*.array_record-*"))
    first = ArrayRecordReader(str(shards[0])).num_records()
    path = shards[1]
    path.write_bytes(path.read_bytes()[:1000] + bytes(path.stat().st_size - 1000))
    assert prepared.image(0).image
    with pytest.raises(ValueError, match=f"{path.name}: cannot be used .*copy the prepared set"):
        prepared.image(first)


def test_files_are_read_once_and_not_by_other_processes(folder, monkeypatch):
    monkeypatch.setattr(set_files, "LONG", 0)
    with logged() as lines:
        PreparedSet(folder)
        prepared = PreparedSet(folder, announce=True)
    assert len(lines) == 1 and "with the build report; what was read before" in lines[0]
    monkeypatch.setattr(set_files, "file_digest", lambda path: 1 / 0)
    again = pickle.loads(pickle.dumps(prepared))
    assert repr(again.pair(3)) == repr(prepared.pair(3))  # unknown ranks, NaN, are unequal


def test_in_a_bucket_sizes_are_compared_and_small_files_when_loaded(folder, things):
    def put():
        for path in folder.rglob("*"):
            if path.is_file():
                name = path.relative_to(folder).as_posix()
                things.put("things", f"set/{name}", path.read_bytes())

    put()
    assert PreparedSet("gs://things/set").labels.size == 24
    turned = turn_labels(folder)
    put()
    prepared = PreparedSet("gs://things/set")
    with pytest.raises(ValueError, match=f"set/{turned.name}: not the file that was prepared"):
        _ = prepared.labels
    cut_the_looks(folder)
    put()
    with pytest.raises(ValueError, match=r"set/looks\.npz: not the file .* bytes, not "):
        PreparedSet("gs://things/set")
