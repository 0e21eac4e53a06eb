"""Digests of files: each is read once, and again only when it has changed."""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

from lrt_jax.disk import write_atomically


def file_digest(path: str | Path, reading: Callable[[int], None] = lambda size: None) -> str:
    """SHA-256 of a file's bytes, in hex.

    The digest is kept in the user's cache folder, `$XDG_CACHE_HOME/lrt_jax/digests`, under the
    file's size, inode and times of change, so that a checkpoint of 16 GB is read once and not at
    every start. Without a cache folder that can be written, files are read every time.

    Args:
      path: of a file on this machine.
      reading: told the file's size in bytes before it is read.

    Raises:
      OSError: the file cannot be read.
    """
    path = Path(path).resolve()
    about = path.stat()
    state = [about.st_size, about.st_ino, about.st_mtime_ns, about.st_ctime_ns]
    cached = _cache_file(path)
    known = _read(cached)
    if known.get("state") == state:
        return known["sha256"]
    reading(about.st_size)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    _write(cached, {"path": str(path), "state": state, "sha256": digest})
    return digest


def _cache_file(path: Path) -> Path:
    root = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))
    name = hashlib.sha256(os.fsencode(path)).hexdigest()
    return root / "lrt_jax" / "digests" / f"{name}.json"


def _read(cached: Path) -> dict:
    """What is known of a file; nothing where the cache is not there, or is not what was written."""
    try:
        known = json.loads(cached.read_bytes())
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) and "sha256" in known else {}


def _write(cached: Path, known: dict) -> None:
    try:
        write_atomically(cached, json.dumps(known).encode())
    except OSError:
        return  # a cache: without it the file is read again
