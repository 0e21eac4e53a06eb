"""Workdirs in a bucket, and the copies of them in which a run works."""

import pytest
from etils import epath

from lrt_jax.config.scenes import OPTIONS
from lrt_jax.data.dataset import prepared_set
from lrt_jax.data.preparation import prepare
from lrt_jax.parallel import processes
from lrt_jax.reporting import completions, curves, metrics
from lrt_jax.storage import workdir
from lrt_jax.storage.bucket import Bucket, BucketError
from lrt_jax.storage.workdir import MirroredWorkdir, open_workdir
from lrt_jax.training.checkpoint import Checkpointer
from tests.bucket_server import READ, REMOVED, WRITTEN

HOME = "gs://things/runs/one"


def write(folder, **files: str) -> None:
    """Files by their paths, with a dot for the slash and without endings."""
    for name, text in files.items():
        path = folder / name.replace("_", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def names(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def done(things, what):
    """Names of what was read, written or removed since this was asked last, in order."""
    found = [name.removeprefix("runs/one/") for x, _, name in things.done if x == what]
    things.done = [entry for entry in things.done if entry[0] != what]
    return sorted(found)


@pytest.fixture
def mirror(things, tmp_path):
    folder = tmp_path / "copy"
    folder.mkdir()
    return MirroredWorkdir(Bucket(HOME), folder)


def test_what_changed_goes_to_the_bucket_and_nothing_else(things, mirror):
    write(mirror.folder, config="{}", eval_one="1", completions_one="a")
    write(mirror.folder, checkpoints_1="held by Orbax", downloads_x="23 GB", **{".lock": "me"})
    mirror.push()
    assert done(things, WRITTEN) == ["completions/one", "config", "eval/one"]
    mirror.push()
    assert done(things, WRITTEN) == done(things, REMOVED) == []
    write(mirror.folder, eval_one="22", eval_two="2")
    (mirror.folder / "completions/one").unlink()
    mirror.push()
    assert done(things, WRITTEN) == ["eval/one", "eval/two"]
    assert done(things, REMOVED) == ["completions/one"]
    found = {name: things.buckets["things"][f"runs/one/{name}"] for name in Bucket(HOME).files()}
    assert found == {"config": b"{}", "eval/one": b"22", "eval/two": b"2"}


def test_the_copy_becomes_like_the_bucket(things, mirror, tmp_path):
    write(mirror.folder, config="{}", metrics="old", eval_stale="x", **{".lock": "me"})
    for name in ("config", "metrics", "export/config.json", "checkpoints/2/x", "eval/y"):
        things.put("things", f"runs/one/{name}", b"{}")
    mirror.pull()
    assert names(mirror.folder) == {"config", "metrics", "eval/y", ".lock"}
    assert done(things, READ) == ["eval/y", "metrics"]  # config is the same already
    mirror.push()
    assert done(things, WRITTEN) == done(things, REMOVED) == []  # the model stays there


@pytest.mark.parametrize("field", ["md5Hash", "generation"])
def test_other_content_of_the_same_size_is_read(things, mirror, field):
    things.marks = (field,)
    things.put("things", "runs/one/config", b"old")
    mirror.pull()
    things.put("things", "runs/one/config", b"new")
    mirror.pull()
    assert (mirror.folder / "config").read_bytes() == b"new"


def test_other_processes_read_what_they_need(things, mirror, monkeypatch):
    data = {"data/y", "data/build_report.json"}
    for name in {"config.json", "eval/1", "completions/1", "metrics.jsonl", "scenes/1"} | data:
        things.put("things", f"runs/one/{name}", b"{}")
    monkeypatch.setattr(processes, "is_first", lambda: False)
    mirror.barrier("here")
    assert names(mirror.folder) == {"config.json", "eval/1"} | data
    assert done(things, WRITTEN) == []


FOLDERS = pytest.mark.parametrize(
    ("folder", "mark"),
    [
        ("data", "build_report.json"),
        ("data-1-hpdv2", "build_report.json"),
        ("scenes", "scenes.json"),
    ],
)


def cut_off(things, mirror, folder, mark) -> tuple[str, str]:
    """A push of a folder of which a part was refused; another machine's part is there."""
    part, mark = f"{folder}/images/x", f"{folder}/{mark}"
    for name in (part, mark):
        path = mirror.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    things.refuses = lambda what, _, name: 403 if what == WRITTEN and name.endswith(part) else None
    with pytest.raises(BucketError):
        mirror.push()
    things.put("things", f"runs/one/{folder}/another", b"{}")
    things.refuses = lambda *_: None
    things.done.clear()
    return part, mark


@FOLDERS
def test_what_is_whole_here_outlives_a_push_that_was_cut_off(things, mirror, folder, mark):
    part, mark = cut_off(things, mirror, folder, mark)
    for same in (
        mirror,
        MirroredWorkdir(Bucket(HOME), mirror.folder),
    ):  # and when the run is begun again
        same.pull()
        assert names(mirror.folder) == {part, mark}
    same.push()
    assert [name for *_, name in things.done] == [f"runs/one/{part}", f"runs/one/{mark}"]
    things.done.clear()
    same.push()
    assert things.done == []


@FOLDERS
@pytest.mark.parametrize("first", [True, False])
def test_what_is_half_leaves_nothing(things, mirror, monkeypatch, folder, mark, first):
    """Neither of what is half on both sides, nor of what others have whole; nor empty folders."""
    _, mark = cut_off(things, mirror, folder, mark)
    if first:
        (mirror.folder / mark).unlink()
    monkeypatch.setattr(processes, "is_first", lambda: first)
    mirror.pull()
    assert list(mirror.folder.iterdir()) == []


def test_a_bucket_that_may_not_be_written(things, mirror):
    things.refuses = lambda what, bucket, name: 403 if what == WRITTEN else None
    write(mirror.folder, config="{}")
    with pytest.raises(BucketError, match=f"{HOME}: cannot be written .*gcloud auth"):
        mirror.push()
    things.refuses = lambda *_: None
    mirror.push()  # nothing was taken for done
    assert Bucket(HOME).files().keys() == {"config"}


def test_a_refusal_in_the_words_of_a_disk_is_still_the_buckets(things, mirror):
    things.put("things", "runs/one/config", b"{}")
    things.refuses, things.says = lambda *_: 401, "Permission denied on resource"
    with pytest.raises(BucketError, match="Permission denied.*gcloud auth"):
        mirror.pull()


@pytest.mark.parametrize(("name", "character"), [("run[1]", "["), ("a\\b", "\\"), ("a*b?", "*")])
@pytest.mark.parametrize("bucket", [True, False])
def test_a_path_that_checkpoints_cannot_be_kept_under_is_refused(tmp_path, name, character, bucket):
    path = epath.Path("gs://things" if bucket else tmp_path) / name / "one"
    with pytest.raises(ValueError, match="no checkpoint can be kept .* another name") as caught:
        open_workdir(path)
    assert character in str(caught.value) and not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match="no checkpoint can be kept"):
        Checkpointer(path, keep=0)


def test_names_are_those_that_others_write():
    """Of what is imported only where it is needed."""
    assert workdir.MARKS == {"data": prepared_set.REPORT, "scenes": OPTIONS}
    assert prepare.DOWNLOADS in workdir.NEVER
    others = completions.FOLDER, metrics.FILE, metrics.TENSORBOARD, curves.FILE
    assert {*others} <= {*workdir.FOR_THE_FIRST}
