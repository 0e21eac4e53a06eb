"""Tests of digests: every byte counts, and nothing is read twice."""

import hashlib
import json
import os
from pathlib import Path

import pytest

from lrt_jax.storage import digests
from lrt_jax.storage.digests import SEAL, check_seal, file_digest, sealed


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def file(tmp_path) -> Path:
    path = tmp_path / "model.safetensors"
    path.write_bytes(os.urandom(100_000))
    return path


def forbid_reading(monkeypatch) -> None:
    def read(*_):
        raise AssertionError("the file is read again")

    monkeypatch.setattr(digests.hashlib, "file_digest", read)


def test_digest_is_that_of_all_bytes(file):
    assert file_digest(file) == hashlib.sha256(file.read_bytes()).hexdigest()


def test_unchanged_file_is_read_once(file, monkeypatch):
    first = file_digest(file)
    forbid_reading(monkeypatch)
    assert file_digest(file) == first


def test_changed_byte_of_a_file_with_its_old_time_is_seen(file):
    first, times = file_digest(file), file.stat()
    content = bytearray(file.read_bytes())
    content[70_001] ^= 1
    file.write_bytes(content)
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert file_digest(file) != first


@pytest.mark.parametrize("damage", ["{", "[]", "{}", "[" * 100_000])
def test_damaged_cache_is_written_again(file, cache, monkeypatch, damage):
    first = file_digest(file)
    (known,) = (cache / "lrt_jax/digests").iterdir()
    known.write_text(damage)
    assert file_digest(file) == first
    forbid_reading(monkeypatch)
    assert file_digest(file) == first


def test_file_in_a_folder_that_was_renamed_is_not_read_again(tmp_path, monkeypatch):
    folder = tmp_path / ".set.building"
    folder.mkdir()
    (folder / "shard").write_bytes(b"records")
    first = file_digest(folder / "shard")
    folder.rename(tmp_path / "set")
    forbid_reading(monkeypatch)
    assert file_digest(tmp_path / "set" / "shard") == first


def test_without_a_home_files_are_read_and_nothing_is_written(file, tmp_path, monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr("lrt_jax.storage.disk.os.path.expanduser", lambda path: path)
    monkeypatch.chdir(tmp_path)
    assert file_digest(file) == hashlib.sha256(file.read_bytes()).hexdigest()
    assert [path.name for path in tmp_path.iterdir()] == [file.name]


def test_seal_of_numbered_content_is_that_of_what_is_read():
    check_seal(json.loads(json.dumps(sealed({10: "ten", 2: "two"}))))


def test_cache_that_cannot_be_written_is_done_without(file, cache):
    cache.write_text("not a folder")
    assert file_digest(file) == hashlib.sha256(file.read_bytes()).hexdigest()


def test_a_changed_number_of_a_sealed_file_is_seen():
    content = sealed({"accuracy": 0.1 + 0.2, "pairs": [1, None, float("nan")]})
    check_seal(json.loads(json.dumps(content)))
    check_seal(dict(reversed(content.items())))
    with pytest.raises(ValueError, match="holds no fields"):
        check_seal([])
    for change in ({"accuracy": 0.31}, {"pairs": [1, None]}, {"more": 1}, {SEAL: None}):
        with pytest.raises(ValueError, match="not that of its sha256: it was changed or damaged"):
            check_seal(content | change)


def test_a_file_that_lost_its_seal_is_told_like_one_whose_seal_is_broken():
    content = sealed({"accuracy": 0.5})
    del content[SEAL]
    for unsealed in (content, {}):
        with pytest.raises(ValueError, match="has no sha256: .* older version .* anew in another"):
            check_seal(unsealed)
