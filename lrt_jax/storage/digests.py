"""Digests of files, each of which is read once until it changes, and of what JSON files hold."""

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lrt_jax.storage.disk import cache_folder, write_atomically


def file_digest(path: str | Path, reading: Callable[[int], None] | None = None) -> str:
    """SHA-256 of a file's bytes, in hex.

    The digest is kept in the user's cache folder, `$XDG_CACHE_HOME/lrt_jax/digests`, under the
    file's device and inode, with its size and times of change: a checkpoint of 16 GB is read once
    and not at every start, and not again where only a folder above it was renamed. Without a cache
    folder that can be written, files are read every time.

    Args:
      path: of a file on this machine.
      reading: called with the file's size in bytes before it is read.

    Raises:
      OSError: the file cannot be read.
    """
    path = Path(path).resolve()
    about = path.stat()
    state = [about.st_size, about.st_mtime_ns, about.st_ctime_ns]
    cached = _cache_file(about)
    known = _read(cached)
    if known.get("state") == state:
        return known["sha256"]
    if reading:
        reading(about.st_size)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    _write(cached, {"path": str(path), "state": state, "sha256": digest})
    return digest


SEAL = "sha256"  # name of the digest in a JSON file


def sealed(content: Mapping) -> dict:
    """What a JSON file is to hold, with a digest of it, under the name `sha256`."""
    return {**content, SEAL: _content_digest(content)}


def check_seal(content: Mapping) -> None:
    """Holds what was read from a JSON file against its digest.

    Raises:
      ValueError: it was changed since it was written, has no digest, or holds no fields at all.
    """
    if not isinstance(content, dict):
        raise ValueError(f"it holds no fields, such as {SEAL}")
    if SEAL not in content:
        raise ValueError(
            f"it has no {SEAL}: it was changed, or an older version wrote it; go on with that "
            "version, or begin anew in another --workdir"
        )
    if content[SEAL] != _content_digest(content):
        raise ValueError(f"its content is not that of its {SEAL}: it was changed or damaged")


def _content_digest(content: Mapping) -> str:
    rest = {name: value for name, value in content.items() if name != SEAL}
    return json_digest(json.loads(json.dumps(rest)))  # keys are texts then, and sorted as such


def json_digest(content: Any) -> str:
    """SHA-256 of content as JSON, whatever the order of its fields, in hex."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _cache_file(about: os.stat_result) -> Path | None:
    """None where nobody knows the user's cache folder."""
    with contextlib.suppress(ValueError):
        return cache_folder("digests") / f"{about.st_dev}-{about.st_ino}.json"
    return None


def _read(cached: Path | None) -> dict:
    """What is known of a file; nothing where the cache is not there, or is not what was written."""
    with contextlib.suppress(OSError, ValueError, RecursionError):
        known = json.loads(cached.read_bytes()) if cached else None
        return known if isinstance(known, dict) and "sha256" in known else {}
    return {}


def _write(cached: Path | None, known: dict) -> None:
    with contextlib.suppress(OSError):  # a cache: without it the file is read again
        if cached:
            write_atomically(cached, json.dumps(known).encode())
