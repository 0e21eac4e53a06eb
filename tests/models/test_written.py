"""Only what an export wrote, and nobody changed, is ever replaced by another."""

import json
import shutil

import pytest

from lrt_jax.models import (
    check_replaceable,
    checkpoint_folder,
    record_files,
    replace_in_bucket,
    save_pretrained,
)
from lrt_jax.models.written import LIST
from lrt_jax.storage.bucket import Bucket, BucketError
from tests.bucket_server import REMOVED, WRITTEN

OTHERS = {
    "a thesis": {"thesis.txt": b"years of work"},
    "another's model": {
        "model.safetensors": b"weights",
        "README.md": b"mine",
        "config.json": b"{}",
    },
    "a list that is none": {LIST: b"[]", "thesis.txt": b"years of work"},
    "a list of others": {LIST: b'{"md5": {"config.json": "x"}}', "thesis.txt": b"years of work"},
}


def contents(folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def export(one, tmp_path):
    """A folder as `save_pretrained` writes it."""
    save_pretrained(one.params, tmp_path / "model", source=one.folder)
    return tmp_path / "model"


@pytest.mark.parametrize("name", ["docs", "docs[1]", "*", "a\\b"])
@pytest.mark.parametrize("files", OTHERS)
def test_what_others_wrote_stays(one, tmp_path, name, files):
    folder = tmp_path / name
    folder.mkdir()
    for file, content in OTHERS[files].items():
        (folder / file).write_bytes(content)
    with pytest.raises(FileExistsError, match=r"take another folder"):
        save_pretrained(one.params, folder, source=one.folder)
    assert contents(folder) == OTHERS[files]
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_an_export_replaces_an_earlier_one(one, export):
    written = contents(export)
    (export / "model.safetensors").unlink()  # what is gone cannot be lost
    save_pretrained(one.params, export, source=one.folder)
    assert contents(export) == written
    assert sorted(json.loads(written[LIST])["md5"]) == sorted(written.keys() - {LIST})
    assert [path.name for path in export.parent.iterdir()] == ["model"]


@pytest.mark.parametrize("name", ["README.md", "model.safetensors", "notes.txt", "runs/1.txt"])
def test_an_export_that_somebody_worked_on_stays(one, export, name):
    (export / name).parent.mkdir(exist_ok=True)
    (export / name).write_bytes(b"my own words")
    with pytest.raises(FileExistsError, match=rf"model: {name.partition('/')[0]} .*move that away"):
        save_pretrained(one.params, export, source=one.folder)
    assert (export / name).read_bytes() == b"my own words"


def test_what_comes_while_the_export_is_written_stays(one, export, monkeypatch):
    save_params = checkpoint_folder.save_params

    def slowly(*arguments, **options):
        save_params(*arguments, **options)
        (export / "notes.txt").write_text("in the meantime", encoding="utf-8")

    monkeypatch.setattr(checkpoint_folder, "save_params", slowly)
    with pytest.raises(FileExistsError, match=r"notes\.txt is of no export"):
        save_pretrained(one.params, export, source=one.folder)
    assert (export / "notes.txt").read_text(encoding="utf-8") == "in the meantime"
    assert [path.name for path in export.parent.iterdir()] == ["model"]


def test_a_checkpoint_that_no_export_wrote_is_not_replaced_by_what_came_of_it(one):
    written = contents(one.folder)
    with pytest.raises(FileExistsError, match="no lrt_jax_files.json, in which an export lists"):
        save_pretrained(one.params, one.folder, source=one.folder)
    assert contents(one.folder) == written


def small_export(folder):
    """A folder of two files and their list."""
    folder.mkdir()
    for name in ("config.json", f"{folder.name}.safetensors"):
        (folder / name).write_text(folder.name, encoding="utf-8")
    record_files(folder)
    return folder


def in_bucket(things) -> dict[str, bytes]:
    return {name.removeprefix("model/"): x for name, x in things.buckets["things"].items()}


def test_what_others_put_beside_an_export_in_a_bucket_stays(things, tmp_path):
    old, new = (small_export(tmp_path / name) for name in ("old", "new"))
    bucket = Bucket("gs://things/model")
    replace_in_bucket(bucket, old)
    for name, told in (("thesis.txt", "of no export"), ("old.safetensors", "was changed since")):
        things.put("things", f"model/{name}", b"years of work")
        with pytest.raises(FileExistsError, match=f"gs://things/model: {name} .*{told}"):
            replace_in_bucket(bucket, new)
        assert in_bucket(things) == contents(old) | {name: b"years of work"}
        del things.buckets["things"][f"model/{name}"]


@pytest.mark.parametrize(
    ("what", "name"),
    [
        (WRITTEN, "config.json"),
        (REMOVED, "config.json"),
        (REMOVED, "old.safetensors"),
        (WRITTEN, LIST),
        (WRITTEN, "new.safetensors"),
    ],
)
def test_an_export_to_a_bucket_that_was_cut_off_goes_on(things, tmp_path, what, name):
    old, new = (small_export(tmp_path / name) for name in ("old", "new"))
    bucket = Bucket("gs://things/model")
    replace_in_bucket(bucket, old)
    things.refuses = lambda *asked: 403 if asked == (what, "things", f"model/{name}") else None
    with pytest.raises(BucketError):
        replace_in_bucket(bucket, new)
    things.refuses = lambda *_: None
    replace_in_bucket(bucket, new)
    assert in_bucket(things) == contents(new)


def test_a_copy_of_an_export_may_be_replaced_too(one, export, tmp_path):
    copy = shutil.copytree(export, tmp_path / "copy")
    assert check_replaceable(copy) == sorted(contents(export))
