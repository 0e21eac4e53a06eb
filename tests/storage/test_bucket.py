"""Folders in a bucket: written whole, and what is said where it refuses."""

import errno
from functools import partial

import pytest
from gcsfs.retry import HttpError
from requests.exceptions import ProxyError

from lrt_jax.storage.bucket import Bucket, BucketError, explain_refusals
from tests.bucket_server import WRITTEN


def test_a_folder_is_replaced_whole(things, tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / "a").write_text("new")
    (tmp_path / "b/c").write_text("1")
    (tmp_path / "d").write_text("2")
    things.put("things", "model/a", b"old")
    things.put("things", "model/z", b"old")
    things.put("things", "model/mine", b"not to go")
    things.put("things", "models/z", b"another's")
    model, older = Bucket("gs://things/model/"), dict(things.buckets["things"])
    replace = partial(model.replace, tmp_path, ["a", "z"], first="d", mark="a")
    things.refuses = lambda what, *_: 403 if what == WRITTEN else None
    with pytest.raises(BucketError, match="gs://things/model: cannot be written .*gcloud auth"):
        replace()
    assert things.buckets["things"] == older
    things.refuses = lambda what, _, name: 403 if name == "model/b/c" else None
    with pytest.raises(BucketError):
        replace()
    assert "model/a" not in things.buckets["things"]  # nobody takes it for a model
    things.refuses = lambda *_: None
    replace()
    found = {"model/a": b"new", "model/b/c": b"1", "model/d": b"2", "model/mine": b"not to go"}
    found["models/z"] = b"another's"
    assert things.buckets["things"] == found


def test_a_bucket_that_there_is_not(things):
    with pytest.raises(BucketError, match="gs://nowhere/run: cannot be read .no such bucket"):
        Bucket("gs://nowhere/run").files()


@pytest.mark.parametrize(
    "error",
    [
        HttpError({"code": 503, "message": "try later"}),
        OSError("Forbidden: b/things/o/x\ntold to refuse"),
        ValueError("Bad Request: b/things/o/x\ninvalid"),
        ProxyError(),  # of status 502
        FileNotFoundError("b/things/o"),
        RuntimeError("Permanent error, with a last message of 403; reading gs://things/x"),
        ValueError("PERMISSION_DENIED: Error reading gs://things/x: no [tensorstore_spec='long']"),
    ],
)
def test_what_other_libraries_say_of_a_bucket_is_told_with_its_remedy(error):
    told = "^gs://things: cannot be read .*gcloud auth"
    with pytest.raises(BucketError, match=told) as raised, explain_refusals("gs://things", "read"):
        raise error
    assert "spec" not in str(raised.value)
    with pytest.raises(type(error)) as raised, explain_refusals("/a/folder", "read"):
        raise error
    assert raised.value is error


@pytest.mark.parametrize(
    "error",
    [
        ValueError("DATA_LOSS: Error decoding gs://things/x"),
        RuntimeError("UNAVAILABLE: worker 1"),
        FileNotFoundError("b/things/o/checkpoints%2F1"),
    ],
)
def test_what_is_said_of_content_or_of_others_passes(error):
    with pytest.raises(type(error)) as raised, explain_refusals("gs://things", "read"):
        raise error
    assert raised.value is error


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (FileNotFoundError("things/pairs/x"), BucketError),  # gcsfs's
        (ConnectionResetError(errno.ECONNRESET, "reset"), BucketError),
        (TimeoutError("too long"), BucketError),
        (KeyError("a mistake of ours"), KeyError),
        (FileNotFoundError(errno.ENOENT, "No such file", "/copy/x"), FileNotFoundError),
        (OSError(errno.ENOSPC, "No space left on device", "/copy/x"), OSError),
    ],
)
def test_what_is_not_the_buckets_is_not_told_as_its(things, tmp_path, monkeypatch, error, told):
    things.put("things", "pairs/x", b"{}")
    bucket = Bucket("gs://things/pairs")

    def fail(*_, **__):
        raise error

    monkeypatch.setattr(bucket._storage, "get_file", fail)
    with pytest.raises(told) as raised:
        bucket.fetch(bucket.files(), tmp_path)
    assert type(raised.value) is told
    assert error in (raised.value, raised.value.__cause__)
