"""Data that is elsewhere: what is fetched, what is said, and going on where it was cut off."""

import importlib.util
import json
import os
import subprocess
import sys

import pytest

from lrt_jax.data.sources import SourceError, fetch
from lrt_jax.data.sources.published import PUBLISHED
from tests.data.sources.hub import BucketHandler, HubHandler, serving

DATA = os.urandom(3_000_000)
HUB = {"train.json": b"[]", "train.tar.gz": DATA, "README.md": b"x", "notes/more.txt": b"y"}
BUCKET = {
    "pairs/train.json": b"[]",
    "pairs/images/a.jpg": DATA,
    "pairs/images/": b"",
    "pairs2/no.json": b"no",
}
CALL = """
import json, sys
from lrt_jax.data.sources import SourceError, fetch
try:
    print(json.dumps(str(fetch.local_folder(*json.loads(sys.argv[1]), say=print))))
except SourceError as error:
    sys.exit(f"told: {error}")
"""


def call(tmp_path, source, input, **environment):
    """`local_folder` in a process of its own, which reads the environment afresh."""
    arguments = json.dumps([source, input, str(tmp_path / "cache")])
    environment = (
        os.environ | {"HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path / "hf")} | environment
    )
    return subprocess.run(
        [sys.executable, "-c", CALL, arguments],
        env=environment | {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DOWNLOAD_TIMEOUT": "5"},
        capture_output=True,
        text=True,
        timeout=120,
    )


def fetched(done, files):
    assert done.returncode == 0, done.stderr
    folder = fetch.Path(json.loads(done.stdout.splitlines()[-1]))
    for name, content in files.items():
        assert (folder / name).read_bytes() == content
    names = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    assert {name for name in names if not name.startswith(".")} == files.keys()
    return folder


# ---------------------------------------------------------------------------- folders


def test_a_folder_is_taken_as_it_is(tmp_path):
    assert fetch.local_folder("hpdv2", tmp_path, tmp_path / "cache", print) == tmp_path
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    ("input", "message"),
    [
        ("./nowhere", "nowhere: no such folder; give the folder .* OWNER/NAME, or gs://"),
        ("/no/such/place", "/no/such/place: no such folder"),
        ("alone", "alone: no such folder"),
        (__file__, "is a file; give the folder"),
    ],
)
def test_what_is_neither_here_nor_elsewhere(tmp_path, input, message):
    with pytest.raises(SourceError, match=message):
        fetch.local_folder("hpdv2", input, tmp_path, print)


def test_sources_that_are_not_on_the_hub_say_what_to_do(tmp_path):
    for source in ("pickapic", "scenes", "folder"):
        with pytest.raises(SourceError, match=f"{source} cannot be fetched by itself: .*folder"):
            fetch.local_folder(source, None, tmp_path, print)


def test_a_set_that_does_not_fit(tmp_path):
    with pytest.raises(SourceError, match=r"x: 9000000.0 GB are to be fetched, but .* has only"):
        fetch._say_what(print, "x", 1, 9 * 10**15, 9 * 10**15, tmp_path)


# ---------------------------------------------------------------------------- the Hub


def test_a_download_from_the_hub_goes_on_where_it_was_cut_off(tmp_path):
    wanted = {name: HUB[name] for name in ("train.json", "train.tar.gz")}
    with serving(HubHandler, HUB) as server:
        server.cut = {"train.tar.gz"}
        first = call(tmp_path, "hpdv2", "acme/pairs", HF_ENDPOINT=server.address)
        if first.returncode:  # some versions of the client go on by themselves
            assert "acme/pairs: cannot be fetched" in first.stderr
            assert "goes on from there" in first.stderr
        last = call(tmp_path, "hpdv2", "acme/pairs@main", HF_ENDPOINT=server.address)
        ranges = [wanted for name, wanted in server.asked if name == "train.tar.gz"]
        again = call(tmp_path, "hpdv2", "acme/pairs", HF_ENDPOINT=server.address)
        asked = len(server.asked)
        more = call(tmp_path, "hpdv2", "acme/pairs", HF_ENDPOINT=server.address)
        assert len(server.asked) == asked
    assert any(wanted and wanted != "bytes=0-" for wanted in ranges)
    assert "acme/pairs: fetching 2 files, 3.0 MB, to " in first.stdout
    fetched(again, wanted)
    fetched(last, wanted)
    fetched(more, wanted)
    assert "2 files, 3.0 MB, all of them in" in more.stdout


def test_a_source_comes_from_where_it_is_published(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(fetch, "_from_hub", lambda *arguments: seen.append(arguments))
    said = []
    fetch.local_folder("hpdv2", None, tmp_path, said.append)
    assert seen[0][:3] == ("hpdv2", "ymhao/HPDv2", tmp_path)
    assert said == ["hpdv2: ymhao/HPDv2, Apache-2.0, about 32 GB"]
    assert PUBLISHED["hpdv2"].patterns[0] == "train.json"


@pytest.mark.parametrize(
    ("input", "refuse", "message"),
    [
        ("acme/other", None, "acme/other: neither a folder here nor a data set of the Hub; mend"),
        ("acme/pairs@nowhere", None, "the data set has no revision 'nowhere'; see https://"),
        ("acme/pairs", (403, "GatedRepo"), "acme/pairs: is gated: accept its terms at https://"),
        ("acme/pairs", (401, "RepoNotFound"), "acme/pairs: neither a folder here nor a data set"),
    ],
)
def test_refusals_of_the_hub(tmp_path, input, refuse, message):
    with serving(HubHandler, HUB) as server:
        server.refuse = refuse
        done = call(tmp_path, "hpdv2", input, HF_ENDPOINT=server.address)
    assert done.returncode == 1
    (line,) = done.stderr.strip().splitlines()[-1:]
    assert line.startswith("told: ") and message in line


def test_another_data_set(tmp_path):
    with serving(HubHandler, HUB) as server:
        done = call(tmp_path, "pickapic", "acme/pairs", HF_ENDPOINT=server.address)
    assert "acme/pairs: none of its files is *.parquet, as pickapic has them" in done.stderr


def test_no_way_to_the_hub(tmp_path):
    done = call(tmp_path, "hpdv2", "acme/pairs", HF_HUB_OFFLINE="1")
    assert "HF_HUB_OFFLINE is set" in done.stderr and "hf download acme/pairs" in done.stderr
    done = call(tmp_path, "hpdv2", "acme/pairs", HF_ENDPOINT="http://127.0.0.1:9")
    assert "told: acme/pairs: cannot be fetched (" in done.stderr


# ---------------------------------------------------------------------------- buckets

needs_gcsfs = pytest.mark.skipif(
    importlib.util.find_spec("gcsfs") is None, reason="gcsfs is not installed (lrt_jax[gcs])"
)


def from_bucket(tmp_path, server, address="gs://things/pairs/"):
    return call(
        tmp_path, "hpdv2", address, STORAGE_EMULATOR_HOST=server.address, FSSPEC_GCS_TOKEN="anon"
    )


@needs_gcsfs
def test_a_bucket_is_copied_and_what_is_whole_is_not_copied_again(tmp_path):
    wanted = {"train.json": b"[]", "images/a.jpg": DATA}
    with serving(BucketHandler, BUCKET) as server:
        first = from_bucket(tmp_path, server)
        folder = fetched(first, wanted)
        assert "gs://things/pairs: fetching 2 files, 3.0 MB, to " in first.stdout
        asked = len(server.asked)
        fetched(from_bucket(tmp_path, server), wanted)
        assert len(server.asked) == asked
        (folder / "images/a.jpg").write_bytes(DATA[:100])
        third = from_bucket(tmp_path, server)
        assert "3.0 MB of it still missing" in third.stdout
        assert {name for name, _ in server.asked[asked:]} == {"pairs/images/a.jpg"}
        fetched(third, wanted)


@needs_gcsfs
def test_a_bucket_where_nothing_is(tmp_path):
    with serving(BucketHandler, BUCKET) as server:
        done = from_bucket(tmp_path, server, "gs://things/elsewhere")
    assert "told: gs://things/elsewhere: " in done.stderr


@needs_gcsfs
def test_names_in_a_bucket_that_lead_out(tmp_path):
    with serving(BucketHandler, BUCKET | {"pairs/../../x": b"no"}) as server:
        done = from_bucket(tmp_path, server)
    assert "leads out of the folder" in done.stderr


def test_a_bucket_without_gcsfs(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(SourceError, match=r"needs gcsfs: pip install 'lrt_jax\[gcs\]'"):
        fetch.local_folder("hpdv2", "gs://things/pairs", tmp_path, print)
