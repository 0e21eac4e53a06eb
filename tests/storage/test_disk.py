"""What is on disk is whole, and a disk that refuses is told as such, whatever library met it."""

import errno
import os
import platform
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lrt_jax import assets
from lrt_jax.algorithms.state import TrainState
from lrt_jax.cli.commands import resolve_folder
from lrt_jax.config.scenes import ScenesOptions
from lrt_jax.data.preparation.prepare import prepare
from lrt_jax.data.scenes.write import write_scenes
from lrt_jax.models import load_model, save_pretrained
from lrt_jax.models.checkpoint_folder import find_folder
from lrt_jax.reporting.metrics import MetricsWriter
from lrt_jax.storage.disk import (
    LOCK,
    REFUSALS,
    check_space,
    expanded,
    explain,
    locked,
    new_folder,
    read_json,
    write_atomically,
)
from lrt_jax.storage.workdir import make_workdir
from lrt_jax.training import checkpoint
from lrt_jax.training.checkpoint import Checkpointer, abstract_state
from tests.storage.small_disk import mounted
from tests.training.test_checkpoint import Position


@pytest.fixture
def disk(tmp_path):
    with mounted(tmp_path / "disk", "200k") as disk:
        yield disk


# New folders


def test_a_folder_has_its_name_when_it_is_whole(tmp_path):
    with new_folder(tmp_path / "a" / "set") as part:
        (part / "file").write_text("whole")
        assert not (tmp_path / "a" / "set").exists()
    assert (tmp_path / "a" / "set" / "file").read_text() == "whole"
    assert os.listdir(tmp_path / "a") == ["set"]


@pytest.fixture
def kept(monkeypatch):
    """What a disk was asked to keep, and the names that were given, in order."""
    done = []
    sync, replace = os.fsync, os.replace

    def replacing(path, target):
        done.append(f"name {os.path.basename(target)}")
        return replace(path, target)

    def syncing(descriptor):
        sync(descriptor)
        done.append(os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}")))

    monkeypatch.setattr(os, "fsync", syncing)
    monkeypatch.setattr(os, "replace", replacing)
    return done


def test_a_disk_keeps_what_is_in_a_file_before_its_name(tmp_path, kept):
    write_atomically(tmp_path / "file", b"whole")
    assert kept == [".file.tmp", "name file", tmp_path.name]


def test_a_disk_keeps_what_is_in_a_folder_before_its_name(tmp_path, kept):
    with new_folder(tmp_path / "set[1]") as part:
        (part / "inner").mkdir()
        (part / "inner" / "file").write_text("whole")
        (part / "link").symlink_to("/nowhere")
    assert {*kept[:2]} == {"inner", "file"}
    assert kept[2:] == [part.name, "name set[1]", tmp_path.name]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_nothing_stays_of_a_folder_that_fails(tmp_path, error):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "file").write_text("older")
    with pytest.raises(error), new_folder(tmp_path / "set", replace=True) as part:
        (part / "file").write_text("half")
        raise error
    assert os.listdir(tmp_path) == ["set"]
    assert (tmp_path / "set" / "file").read_text() == "older"


def test_an_older_folder_gives_way_only_if_it_may(tmp_path):
    for text in ("older", "newer"):
        with new_folder(tmp_path / "set", replace=True) as part:
            (part / "file").write_text(text)
    assert (tmp_path / "set" / "file").read_text() == "newer"
    assert os.listdir(tmp_path) == ["set"]
    with pytest.raises(OSError, match="not empty"), new_folder(tmp_path / "set") as part:
        (part / "file").write_text("newest")
    assert (tmp_path / "set" / "file").read_text() == "newer"


def test_a_folder_behind_a_link_is_replaced_and_the_link_stays(tmp_path):
    link, target = tmp_path / "set", tmp_path / "big disk" / "mine"
    link.symlink_to(target)  # which is not there at first
    for text in ("first", "second", "third"):
        with new_folder(link, replace=True) as part:
            assert part.parent == target.parent  # so that it can be renamed, on any disk
            (part / "file").write_text(text)
        assert link.is_symlink() and (target / "file").read_text() == text
    assert sorted(os.listdir(tmp_path)) == ["big disk", "set"]
    assert os.listdir(target.parent) == ["mine"]


@pytest.fixture
def ended():
    """Number of a process that is no more."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


@pytest.mark.parametrize("name", ["run[1]", "a\\b", "a*"])
def test_what_a_killed_process_left_of_a_folder_whose_name_is_a_pattern(tmp_path, ended, name):
    left = f"part-{platform.node()}-{ended}"
    for other in (name, "run1", "ab"):
        (tmp_path / f".{other}.{left}").mkdir()
    with new_folder(tmp_path / name):
        pass
    assert set(os.listdir(tmp_path)) == {name, f".run1.{left}", f".ab.{left}"}


def test_what_a_killed_process_left_is_removed(tmp_path, ended):
    host = platform.node()
    dead = [f"{host}-{ended}", f"{host}-{os.getpid()}"]  # a container gives its numbers anew
    alive = [f"{host}-{os.getppid()}", f"{host}-0-{os.getppid()}", f"another-{ended}", f"{host}-x"]
    for name in dead + alive:
        (tmp_path / f".set.part-{name}").mkdir()
        (tmp_path / f".set.part-{name}" / "file").write_text("half")
    with new_folder(tmp_path / "set"):
        pass
    assert set(os.listdir(tmp_path)) == {"set", *(f".set.part-{name}" for name in alive)}


@pytest.mark.parametrize("role", ["part", "old"])
def test_a_link_that_was_left_is_removed_and_what_it_leads_to_stays(tmp_path, ended, role):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "file").write_text("dear")
    (tmp_path / "set").mkdir()
    (tmp_path / f".set.{role}-{platform.node()}-{ended}").symlink_to(tmp_path / "thesis")
    with new_folder(tmp_path / "set", replace=True):
        pass
    assert sorted(os.listdir(tmp_path)) == ["set", "thesis"]
    assert (tmp_path / "thesis" / "file").read_text() == "dear"


def test_a_link_that_was_moved_away_is_given_back(tmp_path, ended):
    (tmp_path / "mine").mkdir()
    (tmp_path / f".set.old-{platform.node()}-{ended}").symlink_to(tmp_path / "mine")
    with new_folder(tmp_path / "set", replace=True) as part:
        (part / "file").write_text("newer")
    assert sorted(os.listdir(tmp_path)) == ["mine", "set"]
    assert (tmp_path / "set").is_symlink() and (tmp_path / "mine" / "file").exists()


def test_what_was_moved_away_is_given_back(tmp_path, ended):
    old = tmp_path / f".set.old-{platform.node()}-{ended}"
    old.mkdir()
    (old / "file").write_text("older")
    with pytest.raises(ValueError), new_folder(tmp_path / "set", replace=True):
        raise ValueError
    assert os.listdir(tmp_path) == ["set"]
    assert (tmp_path / "set" / "file").read_text() == "older"


def test_one_process_at_a_time(tmp_path):
    code = "import sys; from pathlib import Path; from lrt_jax.storage.disk import locked\n"
    code += "with locked(Path(sys.argv[1])): print('in')"

    def other():
        command = [sys.executable, "-c", code, str(tmp_path)]
        return subprocess.run(command, capture_output=True, text=True)

    with locked(tmp_path):
        refused = other()
        assert f"in use by process {os.getpid()} of {platform.node()}" in refused.stderr
        assert not refused.stdout
    assert other().stdout == "in\n"


def test_a_lock_is_never_written_through_a_link(tmp_path):
    (tmp_path / "thesis").write_text("dear")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / LOCK).symlink_to(tmp_path / "thesis")
    with (
        pytest.raises(ValueError, match=r"run/\.lock: a link.*remove it"),
        locked(tmp_path / "run"),
    ):
        raise AssertionError
    assert (tmp_path / "thesis").read_text() == "dear"


# Refusals


def test_a_home_that_nobody_knows_is_told(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert expanded("~/run") == "/home/me/run" and expanded("a/~") == "a/~"
    monkeypatch.delenv("HOME")
    monkeypatch.setattr("pwd.getpwuid", lambda user: {}[user])  # as in a container
    for use in (lambda path: resolve_folder("workdir", path), find_folder, expanded):
        with pytest.raises(ValueError, match="~/run: nobody knows the home folder.*set HOME"):
            use("~/run")


@pytest.mark.parametrize("number", REFUSALS)
@pytest.mark.parametrize("kind", [RuntimeError, ValueError, OSError])
def test_words_of_a_library_become_a_number_and_a_path(tmp_path, number, kind):
    with pytest.raises(OSError, match=str(tmp_path)) as caught, explain(tmp_path):
        raise kind(f"write() failed: {os.strerror(number)}; at byte 77")
    assert caught.value.errno == number


def test_other_errors_pass(tmp_path):
    with pytest.raises(ValueError, match="^votes$"), explain(tmp_path):
        raise ValueError("votes")
    source = PermissionError(errno.EACCES, "Permission denied", "/elsewhere/1.png")
    with pytest.raises(PermissionError, match="elsewhere") as caught, explain(tmp_path):
        raise source  # which is read, not written
    assert not hasattr(caught.value, "__notes__")
    with pytest.raises(OSError) as caught, explain(tmp_path):
        (tmp_path / "missing").read_bytes()
    assert caught.value.filename == str(tmp_path / "missing")


def test_room_is_asked_for_before_it_is_needed(tmp_path):
    check_space(tmp_path, 1)
    with pytest.raises(OSError, match=r"for 1,000,000,000,000.0 MB, .* MB are free") as caught:
        check_space(tmp_path, 10**18)
    assert caught.value.errno == errno.ENOSPC


@pytest.mark.parametrize("content", [b"", b'{"a": ', b"\xff\xfe"])
def test_files_that_are_no_json_are_named(tmp_path, content):
    (tmp_path / "report.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"report.json: not JSON \("):
        read_json(tmp_path / "report.json")


# A disk that is full


def test_a_file_that_does_not_fit_leaves_the_older_one(disk):
    write_atomically(disk.folder / "file", b"older")
    with pytest.raises(OSError, match="No space left on device: '.*/disk/file'") as caught:
        write_atomically(disk.folder / "file", bytes(10**6))
    assert caught.value.__notes__ == [REFUSALS[errno.ENOSPC]]
    assert os.listdir(disk.folder) == ["file"]
    assert (disk.folder / "file").read_bytes() == b"older"


def test_metrics_end_the_run_instead_of_waiting(disk):
    """TensorBoard's own writer waits for ever once its thread has met a full disk."""
    with pytest.raises(OSError) as caught, MetricsWriter(disk.folder) as metrics:
        for step in range(10**4):
            metrics.write(step, {f"some/number/{i}": 1.5 for i in range(20)})
    assert caught.value.errno == errno.ENOSPC and caught.value.filename


def export(folder, _):
    save_pretrained(load_model(assets.tiny_model())[1], folder, source=assets.tiny_model())


def scenes(folder, _):
    write_scenes(folder, ScenesOptions(train=12, validation=2, test=1))


@pytest.mark.parametrize("write", [export, scenes])
def test_a_full_disk_leaves_nothing_half_written(disk, data, write):
    with pytest.raises(OSError) as caught:
        write(disk.folder / "new", data)
    assert caught.value.errno == errno.ENOSPC
    assert os.listdir(disk.folder) == []
    disk.remount("size=16m")
    write(disk.folder / "new", data)
    assert os.listdir(disk.folder) == ["new"]


def test_a_full_disk_keeps_what_a_build_goes_on_with(disk, data):
    with pytest.raises(OSError) as caught:
        prepare("hpdv2", data, disk.folder / "new")
    assert caught.value.errno == errno.ENOSPC
    assert os.listdir(disk.folder) == [".new.building"]
    assert not list(disk.folder.rglob("*.tmp"))
    disk.remount("size=16m")
    prepare("hpdv2", data, disk.folder / "new")
    assert os.listdir(disk.folder) == ["new"]


@pytest.mark.parametrize("seen_before", [True, False])
def test_a_full_disk_keeps_the_last_checkpoint(disk, monkeypatch, seen_before):
    """Seen before writing begins, or, where somebody else fills it up, by Orbax in its thread."""
    if not seen_before:
        monkeypatch.setattr(checkpoint, "check_space", lambda *_: None)
    disk.remount("size=3m")
    noise = jax.random.bits(jax.random.key(0), (2**18,), np.uint32)  # which nothing compresses

    def state(step):
        return TrainState(jnp.int32(step), {"x": noise + np.uint32(step)}, {}, ())

    def full():
        with Checkpointer(disk.folder, 3) as checkpointer:
            for step in (1, 2, 3):
                checkpointer.save(step, state(step), Position())

    with pytest.raises(OSError, match="No space left") as caught:
        full()
    assert caught.value.errno == errno.ENOSPC
    assert "the last whole checkpoint is that of step 2" in caught.value.__notes__
    assert REFUSALS[errno.ENOSPC] in caught.value.__notes__
    disk.remount("size=9m")
    with Checkpointer(disk.folder, 3) as checkpointer:
        assert checkpointer.latest_step == 2
        read = checkpointer.restore(2, abstract_state(state(0)))
        assert int(read.step) == 2
        np.testing.assert_array_equal(read.trainable["x"], noise + 2)
        checkpointer.save(3, state(3), Position())
    assert {path.name for path in (disk.folder / "checkpoints").iterdir()} == {"1", "2", "3"}


def test_a_workdir_that_is_read_only(disk):
    make_workdir(disk.folder / "run")
    disk.remount("ro")
    for path in (disk.folder / "run", disk.folder / "other"):
        with pytest.raises(OSError, match=str(path)) as caught:
            make_workdir(path)
        assert caught.value.errno == errno.EROFS
