"""Programs that one start compiles and the next loads, and what may be wrong with their files."""

import hashlib
import os
import re
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from lrt_jax.storage import compilation_cache
from lrt_jax.storage.compilation_cache import (
    ABANDONED,
    DIGEST,
    ENTRY,
    SETTINGS,
    CompiledPrograms,
    keep_programs,
)
from tests.bucket_server import WRITTEN
from tests.kept_programs import Kept, kept_programs
from tests.logs import logged
from tests.storage.small_disk import mounted

SHARED = "gs://things/compiled"
KEYS = [f"jit_f-{i:064x}" for i in range(4)]


@pytest.fixture
def kept(monkeypatch):
    with kept_programs(monkeypatch) as kept:
        yield kept


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "compiled"


def start(kept: Kept, place: str | Path | None) -> tuple[float, int, int]:
    """What a new process would compute, and how many programs it loads and how many it writes."""
    jax.clear_caches()
    kept.loaded = kept.written = 0
    keep_programs(None if place is None else os.fspath(place))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # JAX's walls of text
        value = jax.jit(lambda x: jnp.cos(x) * 3 + 1)(jnp.float32(2.0))
    return float(value), kept.loaded, kept.written


def entries(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if ENTRY.fullmatch(path.name))


def sizes(folder: Path) -> int:
    return sum(path.stat().st_size for path in entries(folder))


def test_what_one_start_compiles_the_next_loads(kept, folder):
    value, loaded, written = start(kept, folder)
    assert (loaded, written) == (0, len(entries(folder))) and written
    assert start(kept, folder) == (value, written, 0)
    assert entries(folder) == sorted(folder.iterdir())


def test_programs_are_kept_in_the_users_cache_unless_jax_was_told_where(
    kept, tmp_path, monkeypatch
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    _, _, written = start(kept, None)
    assert len(entries(tmp_path / "cache/lrt_jax/compiled")) == written > 0
    for name, value in SETTINGS.items():
        assert getattr(jax.config, name) == value
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "chosen"))
    keep_programs()
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / "chosen")


def test_what_the_environment_sets_of_jax_stays(kept, folder, monkeypatch):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_MAX_SIZE", "1000")
    jax.config.update("jax_compilation_cache_max_size", 1000)
    start(kept, folder)
    assert jax.config.jax_compilation_cache_max_size == 1000
    assert sizes(folder) <= 1000


def test_nothing_is_kept_where_it_is_switched_off(kept, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "chosen"))
    assert start(kept, "off")[1:] == (0, 0)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[: len(content) // 2],
        lambda content: b"",
        lambda content: content[:-1] + bytes([content[-1] ^ 1]),
        lambda content: content[DIGEST:],
    ],
    ids=["cut off", "empty", "a flipped bit", "without digest"],
)
def test_a_damaged_entry_is_compiled_and_written_again(kept, folder, damage):
    value, _, written = start(kept, folder)
    for path in entries(folder):
        path.write_bytes(damage(path.read_bytes()))
    with logged() as lines:
        assert start(kept, folder) == (value, 0, written)
    assert len(lines) == 1 and "damaged; compiled and written again" in lines[0]
    assert start(kept, folder) == (value, written, 0)


def occupied(folder: Path) -> None:
    folder.write_text("somebody's")


def dangling(folder: Path) -> None:
    folder.symlink_to(folder.with_name("not there"))


@pytest.mark.parametrize("spoil", [occupied, dangling])
def test_a_place_that_is_no_folder_is_told_and_left(kept, folder, spoil):
    spoil(folder)
    with logged() as lines:
        assert start(kept, folder)[1:] == (0, 0)
    assert re.fullmatch(r"warning: what is compiled is not kept .*compiled.*", *lines)
    assert folder.is_symlink() or folder.read_text() == "somebody's"


def test_without_a_home_programs_are_compiled_and_not_kept(kept, tmp_path, monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr("lrt_jax.storage.disk.os.path.expanduser", lambda path: path)
    monkeypatch.chdir(tmp_path)
    with logged() as lines:
        assert start(kept, None)[1:] == (0, 0)
    assert len(lines) == 1 and "set HOME" in lines[0]
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_told_once_and_nothing_is_left_on_it(kept, folder):
    with mounted(folder, "4k"), logged() as lines:
        assert start(kept, folder)[1:] == (0, 2)  # of which one fits
        assert entries(folder) == list(folder.iterdir())
    assert len(lines) == 1 and "cannot be written" in lines[0] and "No space" in lines[0]
    assert str(folder) in lines[0]


def test_what_is_there_is_loaded_from_a_disk_that_cannot_be_written(kept, folder):
    with mounted(folder, "1m") as disk, logged() as lines:
        value, _, written = start(kept, folder)
        (folder / entries(folder)[0]).unlink()
        disk.remount("ro")
        assert start(kept, folder) == (value, written - 1, 1)
    assert len(lines) == 1 and "cannot be written" in lines[0] and "Read-only" in lines[0]


def test_the_least_recently_used_give_way_and_others_files_stay(tmp_path):
    others = ["mine.txt", "jit_f-cache", f"{KEYS[0]}.compiled", f"{KEYS[0]}-cache"]
    for name in others:
        (tmp_path / name).write_bytes(b"x" * 1000)
    (tmp_path / "folder.compiled").mkdir()
    programs = CompiledPrograms(tmp_path, 3 * (100 + DIGEST))
    for age, key in enumerate(KEYS[:3]):
        programs.put(key, bytes(100))
        os.utime(entries(tmp_path)[-1], (age, age))
    assert programs.get(KEYS[0]) == bytes(100)  # which is the youngest now
    programs.put(KEYS[3], bytes(100))
    assert [programs.get(key) is not None for key in KEYS] == [True, False, True, True]
    programs.put("jit_g-" + "0" * 64, bytes(1000))
    assert programs.get(KEYS[3]) is not None  # for what does not fit nothing goes
    assert all((tmp_path / name).stat().st_size == 1000 for name in others)


def test_a_link_in_the_place_of_an_entry_leads_nobody_to_delete(tmp_path):
    folder, target = tmp_path / "compiled", tmp_path / "somebody's"
    folder.mkdir()
    target.write_bytes(b"x" * 10_000)
    programs = CompiledPrograms(folder, 2 * DIGEST)
    link = folder / compilation_cache._name(KEYS[1])
    link.symlink_to(target)
    os.utime(link, (1, 1), follow_symlinks=False)
    programs.put(KEYS[2], b"b")
    assert link.is_symlink() and target.stat().st_size == 10_000


def test_the_limit_holds_where_several_processes_write(tmp_path):
    several = [CompiledPrograms(tmp_path, 1000) for _ in range(2)]
    for i in range(20):
        several[i % 2].put(f"jit_f-{i:064x}", bytes(100 + i))
        assert sizes(tmp_path) <= 1000
    assert len(entries(tmp_path)) > 4


def test_no_limit_is_none(tmp_path):
    programs = CompiledPrograms(tmp_path, -1)
    for key in KEYS:
        programs.put(key, bytes(100))
    assert len(entries(tmp_path)) == len(KEYS)


def test_what_killed_writers_left_goes_and_what_is_being_written_stays(tmp_path):
    name = compilation_cache._name(KEYS[0])
    left, young, mine = (tmp_path / x for x in (f".{name}.abc", f".{name}.abd", ".mine.abc"))
    for path in (left, young, mine):
        path.write_bytes(b"part")
    for path in (left, mine):
        os.utime(path, (path.stat().st_mtime - ABANDONED - 10,) * 2)
    CompiledPrograms(tmp_path, 1000).put(KEYS[0], b"a")
    assert [path.exists() for path in (left, young, mine)] == [False, True, True]


def test_another_kind_of_cpu_compiles_its_own(kept, folder, monkeypatch):
    value, _, written = start(kept, folder)
    monkeypatch.setattr(compilation_cache, "_machine", lambda: "0123456789abcdef")
    assert start(kept, folder) == (value, 0, written)
    assert len(entries(folder)) == 2 * written
    monkeypatch.undo()


def test_what_tells_cpus_apart_is_the_same_at_every_start():
    machine = compilation_cache._machine.__wrapped__
    assert machine() == machine() and re.fullmatch(r"[0-9a-f]{16}", machine())
    assert machine() != "0" * 16


# ---------------------------------------------------------------------------- in a bucket


@pytest.fixture
def machines(tmp_path, monkeypatch):
    """Has the next start be on another machine."""

    def use(name: str) -> Path:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / name))
        return tmp_path / name / "lrt_jax/compiled"

    return use


def test_a_new_machine_loads_what_another_compiled(kept, things, machines):
    machines("first")
    value, _, written = start(kept, SHARED)
    assert len(things.buckets["things"]) == written
    second = machines("second")
    assert start(kept, SHARED) == (value, written, 0)
    assert entries(second) == sorted(second.iterdir())


def test_a_bucket_that_refuses_is_told_once_and_left_alone(kept, things, machines):
    here = machines("first")
    things.refuses = lambda what, *_: 403 if what == WRITTEN else None
    with logged() as lines:
        _, _, written = start(kept, SHARED)
    assert len(entries(here)) == written > 1
    assert len(lines) == 1 and "gs://things/compiled: cannot be written" in lines[0]
    assert len(things.done) == 1


def test_a_bucket_that_there_is_not_is_told_and_the_disk_serves(kept, things, machines):
    machines("first")
    with logged() as lines:
        value, _, written = start(kept, "gs://nowhere/compiled")
    assert len(lines) == 1 and "gs://nowhere/compiled: cannot be read" in lines[0]
    assert start(kept, "gs://nowhere/compiled") == (value, written, 0)


def test_a_damaged_object_is_compiled_and_written_again(kept, things, machines):
    machines("first")
    value, _, written = start(kept, SHARED)
    for name in list(things.buckets["things"]):
        things.put("things", name, b"damaged")
    machines("second")
    assert start(kept, SHARED) == (value, 0, written)
    machines("third")
    assert start(kept, SHARED) == (value, written, 0)


def test_in_a_bucket_the_oldest_give_way_and_others_objects_stay(things, tmp_path):
    others = {f"compiled/{x}": b"x" * 1000 for x in ("mine", f"{KEYS[0]}.compiled", "a/b")}
    for name, data in others.items():
        things.put("things", name, data)
    programs = CompiledPrograms(tmp_path, 3 * (100 + DIGEST))
    programs.share(SHARED)
    for key in reversed(KEYS):
        programs.put(key, bytes(100))
    found = things.buckets["things"]
    assert {name: found[name] for name in others} == others
    names = {f"compiled/{compilation_cache._name(key)}" for key in KEYS[:3]}
    assert found.keys() - others.keys() == names


def test_an_entry_begins_with_the_digest_of_the_rest(tmp_path):
    CompiledPrograms(tmp_path, -1).put(KEYS[0], b"program")
    [path] = entries(tmp_path)
    assert path.read_bytes() == hashlib.sha256(b"program").digest() + b"program"
