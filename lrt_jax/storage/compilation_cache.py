"""Compiled programs, kept from one start of a command to the next.

JAX has such a cache, and asks and fills this one in its place. Its own writes files that may be cut
off, never writes a damaged one again, warns at length of each that it cannot use, and needs locks
for a limit of size, which a bucket does not know.
"""

import contextlib
import functools
import hashlib
import logging
import os
import platform
import re
import stat
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import jax
from jax._src import compilation_cache  # its public part names a folder, and nothing else
from jax._src.compilation_cache_interface import CacheInterface

from lrt_jax.storage.bucket import Bucket, is_address
from lrt_jax.storage.disk import cache_folder, first_line

logger = logging.getLogger(__name__)

OFF = "off"
# Of JAX, unless the environment sets them. Even the smallest program is loaded in less time than it
# is compiled in. XLA's own caches, of GPUs, would be files without a limit.
SETTINGS = {
    "jax_compilation_cache_max_size": 2 * 10**9,
    "jax_persistent_cache_min_compile_time_secs": 0.0,
    "jax_persistent_cache_enable_xla_caches": "none",
}
ENTRY = re.compile(r"[^/]+-[0-9a-f]{64}\.[0-9a-f]{16}\.compiled")
PART = re.compile(rf"\.{ENTRY.pattern}\.\w+")  # of an entry that is being written
ABANDONED = 3600  # seconds after which nobody writes a part any more
DIGEST = hashlib.sha256().digest_size  # at the beginning of an entry, of what follows
# What /proc/cpuinfo says of the programs that a CPU can run, and of those that suit it.
CPU = ("model name", "flags", "CPU implementer", "CPU part", "Features")


def keep_programs(place: str | None = None) -> None:
    """Has JAX keep what it compiles, and load it at the next start; before the first compilation.

    Where that cannot be, it is said once, and programs are compiled as without it.

    Args:
      place: a folder; one in a bucket, of which a copy is in the user's cache folder; or `off`.
        None: where JAX has been told to, as by JAX_COMPILATION_CACHE_DIR, and then by JAX's own
        rules; else the user's cache folder, `$XDG_CACHE_HOME/lrt_jax/compiled`.
    """
    if place == OFF:
        jax.config.update("jax_enable_compilation_cache", False)
    if place == OFF or (place is None and jax.config.jax_compilation_cache_dir):
        return
    try:
        folder = Path(place) if place and not is_address(place) else cache_folder("compiled")
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        logger.warning(f"what is compiled is not kept for the next start ({first_line(error)})")
        return
    for name, value in SETTINGS.items():
        if name.upper() not in os.environ:
            jax.config.update(name, value)
    jax.config.update("jax_compilation_cache_dir", os.fspath(folder))
    programs = CompiledPrograms(folder, jax.config.jax_compilation_cache_max_size)
    compilation_cache.get_file_cache = lambda path: (programs, path)
    compilation_cache.reset_cache()
    if place and is_address(place):
        programs.share(place)


class CompiledPrograms(CacheInterface):
    """Compiled programs by JAX's keys, in a folder that other processes and machines may share.

    JAX's keys tell apart programs, versions, devices, their number, and flags. An entry begins with
    a digest of the rest: what is damaged is compiled and written again. Those that were used
    longest ago give way where there are too many; other files in the folder are not touched.

    Args:
      folder: that is there.
      max_size: bytes of all entries together; -1 is no limit.
    """

    def __init__(self, folder: Path, max_size: int):
        self._path, self._max_size = folder, max_size
        self._bucket: Bucket | None = None
        self._said: set[str] = set()

    def share(self, address: str) -> None:
        """Copies here what a bucket has, and from now on there what is written here."""
        with self._going_on("read"):
            bucket = Bucket(address)
            missing = {
                name: about
                for name, about in bucket.files().items()
                if ENTRY.fullmatch(name) and not (self._path / name).exists()
            }
            with tempfile.TemporaryDirectory() as fetched:
                bucket.fetch(missing, Path(fetched))
                for name in missing:
                    self._write(name, (Path(fetched) / name).read_bytes())
            self._make_room()
            self._bucket = bucket

    def get(self, key: str) -> bytes | None:
        """A program, or None: JAX compiles it then, and puts it here."""
        with self._going_on("read"), contextlib.suppress(FileNotFoundError):
            path = self._path / _name(key)
            content = path.read_bytes()
            if hashlib.sha256(content[DIGEST:]).digest() == content[:DIGEST]:
                with contextlib.suppress(OSError):  # of a folder that is only read
                    os.utime(path)
                return content[DIGEST:]
            self._say("damaged", f"{path}: damaged; compiled and written again")
        return None

    def put(self, key: str, value: bytes) -> None:
        """Keeps a program, in the place of what was damaged."""
        name, content = _name(key), hashlib.sha256(value).digest() + value
        if 0 <= self._max_size < len(content):
            return
        with self._going_on("written"):
            self._write(name, content)
            self._make_room()
            if self._bucket:
                self._send(name)

    def _write(self, name: str, content: bytes) -> None:
        """Writes an entry, whole or not at all; another process may do the same."""
        descriptor, part = tempfile.mkstemp(dir=self._path, prefix=f".{name}.")
        try:
            with open(descriptor, "wb") as file:
                file.write(content)
            os.replace(part, self._path / name)
        except BaseException:
            os.unlink(part)
            raise

    def _send(self, name: str) -> None:
        """Copies an entry to the bucket, and makes room there; one that fails is left alone."""
        bucket, self._bucket = self._bucket, None
        bucket.put(self._path, [name])
        found = bucket.files().items()
        entries = [_Entry(x.written, x.size, name) for name, x in found if ENTRY.fullmatch(name)]
        bucket.remove(self._beyond_limit(entries))
        self._bucket = bucket

    def _make_room(self) -> None:
        """Removes entries beyond the limit, and parts of which the writers were killed."""
        entries = []
        for path in self._path.iterdir():
            with contextlib.suppress(FileNotFoundError):  # another process makes room too
                about = path.lstat()
                if not stat.S_ISREG(about.st_mode):
                    continue
                if ENTRY.fullmatch(path.name):
                    entries.append(_Entry(about.st_mtime_ns, about.st_size, path.name))
                elif PART.fullmatch(path.name) and about.st_mtime < time.time() - ABANDONED:
                    path.unlink()
        for name in self._beyond_limit(entries):
            (self._path / name).unlink(missing_ok=True)

    def _beyond_limit(self, entries: Iterable["_Entry"]) -> Iterator[str]:
        """Names of the oldest, without which the others are not too large."""
        size = 0
        for entry in sorted(entries, reverse=True) if self._max_size >= 0 else ():
            size += entry.size
            if size > self._max_size:
                yield entry.name

    @contextlib.contextmanager
    def _going_on(self, what: str) -> Iterator[None]:
        """Says why the cache cannot be read or written, once."""
        try:
            yield
        except Exception as error:  # of any kind: for want of a cache no run ends
            why = f"compiled programs cannot be {what} ({first_line(error)}); going on"
            self._say(what, f"{self._path}: {why}")

    def _say(self, what: str, line: str) -> None:
        if what not in self._said:
            self._said.add(what)
            logger.warning(line)


class _Entry(NamedTuple):
    """A file or an object; they are sorted by age."""

    used: int | str
    size: int
    name: str


def _name(key: str) -> str:
    return f"{key}.{_machine()}.compiled"


@functools.cache
def _machine() -> str:
    """What tells this machine's CPU from others, where programs are compiled for the CPU.

    JAX's key holds what XLA detects of a CPU; this also tells apart CPUs that can run the same
    programs, and for which it may choose other ones.
    """
    if jax.default_backend() != "cpu":
        return "0" * 16
    lines = {platform.machine(), platform.processor()}
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as file:
        lines |= {line.strip() for line in file if line.startswith(CPU)}
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()[:16]
