"""Data that is elsewhere: what is fetched, what is said, and going on where it was cut off."""

import json
import os
import sys
from pathlib import Path

import pytest
from huggingface_hub import constants

from lrt_jax.data.sources import SOURCES, SourceError, fetch
from lrt_jax.storage.bucket import BucketError
from tests import bucket_server
from tests.data.sources.hub import HubHandler, Server
from tests.logs import logged
from tests.loopback import serving

DATA = os.urandom(3_000_000)
WANTED = {"train.json": b"[]", "train.tar.gz": DATA}
HUB = WANTED | {"README.md": b"x", "notes/more.txt": b"y"}
BUCKET = {
    "pairs/train.json": b"[]",
    "pairs/images/a.jpg": DATA,
    "pairs/images/": b"",
    "pairs2/no.json": b"no",
}


@pytest.fixture
def hub(monkeypatch):
    """A Hub that has the data set acme/pairs."""
    with serving(Server(HubHandler, HUB)) as server:
        template = server.address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "ENDPOINT", server.address)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 100_000)
        yield server


@pytest.fixture
def bucket(things):
    """Storage with the bucket things, in which there are some."""
    for name, content in BUCKET.items():
        things.put("things", name, content)
    return things


def read_again(bucket, input, cache):
    """What is read of the bucket while its folder is fetched."""
    before = len(bucket.done)
    fetch.local_folder("hpdv2", input, cache)
    return {name for what, _, name in bucket.done[before:] if what == bucket_server.READ}


def check(folder, files):
    """That a folder holds those files and no others, but for hidden ones."""
    paths = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file()]
    seen = [path for path in paths if not any(part.startswith(".") for part in path.parts)]
    assert {path.as_posix() for path in seen} == files.keys()
    assert all((folder / name).read_bytes() == content for name, content in files.items())


# ---------------------------------------------------------------------------- folders


def test_a_folder_is_taken_as_it_is(tmp_path):
    assert fetch.local_folder("hpdv2", tmp_path, tmp_path / "cache") == tmp_path
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    ("input", "message"),
    [
        ("./nowhere", "nowhere: no such folder; give the folder .* OWNER/NAME, or gs://"),
        ("/no/such/place", "/no/such/place: no such folder"),
        ("alone", "alone: no such folder"),
        (__file__, "is a file; name the folder that holds it"),
    ],
)
def test_what_is_neither_here_nor_elsewhere(tmp_path, input, message):
    with pytest.raises(SourceError, match=message):
        fetch.local_folder("hpdv2", input, tmp_path)


@pytest.mark.parametrize("input", [None, "acme/pairs", "gs://things/pairs", "."])
def test_a_source_that_there_is_not(tmp_path, input):
    with pytest.raises(SourceError, match="unknown source 'hpd2': did you mean 'hpdv2'"):
        fetch.local_folder("hpd2", input, tmp_path)


def test_sources_that_are_not_on_the_hub_say_what_to_do(tmp_path):
    for source in ("pickapic", "scenes", "folder"):
        with pytest.raises(SourceError, match=f"{source} cannot be fetched by itself: .*folder"):
            fetch.local_folder(source, None, tmp_path)


def test_a_set_that_does_not_fit(tmp_path):
    with pytest.raises(SourceError, match=r"x: 9000000.0 GB are to be fetched, but .* has only"):
        fetch._log_plan("x", 1, 9 * 10**15, 9 * 10**15, tmp_path)


# ---------------------------------------------------------------------------- the Hub


def test_only_the_files_of_the_source_are_downloaded(hub, tmp_path):
    with logged() as lines:
        folder = fetch.local_folder("hpdv2", "acme/pairs", tmp_path)
    assert folder == tmp_path / "acme--pairs"
    check(folder, WANTED)
    assert lines == [f"acme/pairs: fetching 2 files, 3.0 MB, to {folder}"]
    asked = len(hub.asked)
    (folder / fetch.WHOLE).unlink()
    with logged() as lines:
        assert fetch.local_folder("hpdv2", "acme/pairs", tmp_path) == folder
    assert len(hub.asked) == asked
    assert lines == [f"acme/pairs: 2 files, 3.0 MB, all of them in {folder} already"]


DAMAGE = pytest.mark.parametrize("damage", ["[]", "{}", "7", "[" * 100_000])


@DAMAGE
def test_a_damaged_record_of_what_was_fetched_is_made_anew(hub, tmp_path, damage):
    folder = fetch.local_folder("hpdv2", "acme/pairs", tmp_path)
    whole = json.loads((folder / fetch.WHOLE).read_bytes())
    (folder / fetch.WHOLE).write_text(damage)
    assert fetch.local_folder("hpdv2", "acme/pairs", tmp_path) == folder
    assert json.loads((folder / fetch.WHOLE).read_bytes()) == whole


@DAMAGE
def test_what_damaged_marks_tell_nothing_of_is_fetched_again(bucket, tmp_path, damage):
    folder = fetch.local_folder("hpdv2", "gs://things/pairs", tmp_path)
    (folder / fetch.MARKS).write_text(damage + "\n")
    read = read_again(bucket, "gs://things/pairs", tmp_path)
    assert read == {"pairs/train.json", "pairs/images/a.jpg"}
    assert not read_again(bucket, "gs://things/pairs", tmp_path)


def test_what_is_whole_is_found_without_the_network(hub, tmp_path):
    folder = fetch.local_folder("hpdv2", "acme/pairs", tmp_path)
    hub.refuse = (503, "dead")
    with logged() as lines:
        assert fetch.local_folder("hpdv2", "acme/pairs", tmp_path) == folder
    assert lines == [
        f"acme/pairs: all of it in {folder} already, at commit {hub.sha}; to fetch the newest, "
        "remove that folder, or name a commit: acme/pairs@COMMIT"
    ]
    other = ("pickapic", "acme/pairs"), ("hpdv2", "acme/pairs@main")
    for source, address in other:
        with pytest.raises(SourceError, match="cannot be fetched"):
            fetch.local_folder(source, address, tmp_path)
    (folder / "train.json").unlink()
    with pytest.raises(SourceError, match="cannot be fetched"):
        fetch.local_folder("hpdv2", "acme/pairs", tmp_path)
    hub.refuse, hub.cut, hub.dies = None, {"train.json"}, True
    with pytest.raises(SourceError, match="cannot be fetched"):
        fetch.local_folder("hpdv2", "acme/pairs", tmp_path)
    assert not (folder / fetch.WHOLE).exists()


def test_files_of_another_version_are_not_read_with_those_of_this_one(hub, tmp_path):
    hub.files = {"train-00000-of-00001.parquet": b"both", "README.md": b"x"}
    folder = fetch.local_folder("pickapic", "acme/pairs", tmp_path)
    (folder / fetch.WHOLE).unlink()
    (folder / "notes.txt").write_text("mine, and not read")
    hub.files = {f"train-0000{i}-of-00002.parquet": b"half" for i in range(2)}
    with pytest.raises(
        SourceError,
        match="holds train-00000-of-00001.parquet, which acme/pairs has no longer; move it away, "
        "or remove the folder",
    ):
        fetch.local_folder("pickapic", "acme/pairs", tmp_path)
    (folder / "train-00000-of-00001.parquet").unlink()
    fetch.local_folder("pickapic", "acme/pairs", tmp_path)
    check(folder, hub.files | {"notes.txt": b"mine, and not read"})


def test_a_download_goes_on_where_the_line_was_cut(hub, tmp_path):
    hub.cut = {"train.tar.gz"}
    check(fetch.local_folder("hpdv2", "acme/pairs", tmp_path), WANTED)
    (start, rest) = [wanted for name, wanted in hub.asked if name == "train.tar.gz"]
    assert start is None
    assert int(rest.removeprefix("bytes=").split("-")[0]) > 1_000_000


def test_files_that_are_whole_stay_where_the_hub_died(hub, tmp_path):
    hub.cut, hub.dies = {"train.tar.gz"}, True
    with pytest.raises(SourceError, match="acme/pairs@main: cannot be fetched .* whole stay"):
        fetch.local_folder("hpdv2", "acme/pairs@main", tmp_path)
    assert not list(tmp_path.glob("*/train.tar.gz"))
    whole = [path.name for path in tmp_path.glob("*/train.json")]
    hub.refuse, before = None, len(hub.asked)
    check(fetch.local_folder("hpdv2", "acme/pairs@main", tmp_path), WANTED)
    assert {name for name, _ in hub.asked[before:]} == WANTED.keys() - set(whole)


def test_a_source_comes_from_where_it_is_published(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(fetch, "_from_hub", lambda *arguments: seen.append(arguments))
    with logged() as lines:
        fetch.local_folder("hpdv2", None, tmp_path)
    assert seen[0] == ("hpdv2", SOURCES["hpdv2"], "ymhao/HPDv2", tmp_path)
    assert lines == ["hpdv2: ymhao/HPDv2, Apache-2.0, about 32 GB"]
    assert SOURCES["hpdv2"].patterns[0] == "train.json"


@pytest.mark.parametrize(
    ("input", "refuse", "message"),
    [
        ("acme/other", None, "acme/other: neither a folder here nor a data set of the Hub; mend"),
        ("acme/pairs@nowhere", None, "the data set has no revision 'nowhere'; see https://"),
        ("acme/pairs", (403, "GatedRepo"), "acme/pairs: is gated: accept its terms at https://"),
        ("acme/pairs", (401, "RepoNotFound"), "acme/pairs: neither a folder here nor a data set"),
    ],
)
def test_refusals_of_the_hub(hub, tmp_path, input, refuse, message):
    hub.refuse = refuse
    with pytest.raises(SourceError, match=message) as caught:
        fetch.local_folder("hpdv2", input, tmp_path)
    assert "\n" not in str(caught.value)


def test_another_data_set(hub, tmp_path):
    with pytest.raises(SourceError, match=r"none of its files is \*.parquet, as pickapic has them"):
        fetch.local_folder("pickapic", "acme/pairs", tmp_path)


def test_no_way_to_the_hub(hub, tmp_path, monkeypatch):
    hub.server_close()
    with pytest.raises(SourceError, match=r"acme/pairs: cannot be fetched \("):
        fetch.local_folder("hpdv2", "acme/pairs", tmp_path)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(SourceError, match="HF_HUB_OFFLINE is set.*: hf download acme/pairs --repo"):
        fetch.local_folder("hpdv2", "acme/pairs", tmp_path)


# ---------------------------------------------------------------------------- buckets


def test_a_bucket_is_copied_and_what_is_whole_is_not_copied_again(bucket, tmp_path):
    with logged() as lines:
        folder = fetch.local_folder("hpdv2", "gs://things/pairs/", tmp_path)
    assert folder == tmp_path / "things--pairs"
    wanted = {"train.json": b"[]", "images/a.jpg": DATA}
    check(folder, wanted)
    assert lines == [f"gs://things/pairs: fetching 2 files, 3.0 MB, to {folder}"]
    (folder / "images/a.jpg").write_bytes(DATA[:100])
    with logged() as lines:
        assert read_again(bucket, "gs://things/pairs", tmp_path) == {"pairs/images/a.jpg"}
        check(folder, wanted)
        assert not read_again(bucket, "gs://things/pairs", tmp_path)
    assert "3.0 MB of it still missing" in lines[0] and "already" in lines[1]


@pytest.mark.parametrize("marks", [("md5Hash",), ("generation",), ()])
def test_what_was_rewritten_in_a_bucket_is_copied_again(bucket, tmp_path, marks):
    bucket.marks = marks
    folder = fetch.local_folder("hpdv2", "gs://things/pairs", tmp_path)
    bucket.put("things", "pairs/train.json", b"{}")
    again = {"pairs/train.json"} if marks else {"pairs/train.json", "pairs/images/a.jpg"}
    assert read_again(bucket, "gs://things/pairs", tmp_path) == again
    check(folder, {"train.json": b"{}", "images/a.jpg": DATA})


def test_files_that_a_bucket_has_no_longer(bucket, tmp_path):
    fetch.local_folder("hpdv2", "gs://things/pairs", tmp_path)
    del bucket.buckets["things"]["pairs/images/a.jpg"]
    with pytest.raises(SourceError, match=r"holds images/a\.jpg, which gs://things/pairs has no"):
        fetch.local_folder("hpdv2", "gs://things/pairs", tmp_path)


def test_a_copy_that_is_cut_off_has_no_name_yet(bucket, tmp_path, monkeypatch):
    from gcsfs.core import GCSFileSystem

    def half(self, source, target, **_):
        Path(target).write_bytes(DATA[:100])
        raise OSError("the line is dead")

    with monkeypatch.context() as patch:
        patch.setattr(GCSFileSystem, "get_file", half)
        with pytest.raises(BucketError, match=r"gs://things/pairs: cannot be fetched \(the line"):
            fetch.local_folder("hpdv2", "gs://things/pairs", tmp_path)
    check(tmp_path / "things--pairs", {})
    folder = fetch.local_folder("hpdv2", "gs://things/pairs", tmp_path)
    check(folder, {"train.json": b"[]", "images/a.jpg": DATA})


@pytest.mark.parametrize("address", ["gs://things/elsewhere", "gs://nowhere/pairs"])
def test_a_bucket_where_nothing_is(bucket, tmp_path, address):
    with pytest.raises(ValueError, match=f"{address}: .*no (files there|such bucket)"):
        fetch.local_folder("hpdv2", address, tmp_path)


def test_names_in_a_bucket_that_lead_out(bucket, tmp_path):
    bucket.put("things", "pairs/../../x", b"no")
    with pytest.raises(BucketError, match="leads out of the folder"):
        fetch.local_folder("hpdv2", "gs://things/pairs", tmp_path)


def test_a_bucket_without_gcsfs(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "gcsfs.core", None)
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(BucketError, match=r"needs gcsfs: pip install 'lrt_jax\[gcs\]'"):
        fetch.local_folder("hpdv2", "gs://things/pairs", tmp_path)
