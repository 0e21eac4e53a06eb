"""Writing to disk: whole or not at all, and in plain words where the disk refuses."""

import contextlib
import errno
import os
import platform
import shutil
from collections.abc import Iterator
from pathlib import Path

from etils import epath

GOES_ON = "then give the same command again: what is whole stays, and it goes on from there"
# What a disk may say to a write, and what to do about it.
REFUSALS = {
    errno.ENOSPC: f"make space, {GOES_ON}",
    errno.EDQUOT: f"make space or have the quota raised, {GOES_ON}",
    errno.EROFS: "this is mounted to be read only: name another folder",
    errno.EACCES: "this user may not write there: name another folder, or change its permissions",
    errno.EPERM: "this user may not write there: name another folder, or change its permissions",
    errno.EIO: f"the disk fails: see to it, {GOES_ON}",
    errno.ESTALE: f"the file system is gone: mount it again, {GOES_ON}",
}


def write_atomically(path: epath.PathLike, content: bytes) -> None:
    """Writes a file that is there whole or not at all, whatever interrupts the writing."""
    path = epath.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.parent / f".{path.name}.tmp"
    unfinished.write_bytes(content)
    unfinished.replace(path)


@contextlib.contextmanager
def new_folder(folder: Path, *, replace: bool = False) -> Iterator[Path]:
    """Yields an empty folder that gets its name once it is whole; if that fails, it is removed.

    So is, before, what a killed process of this machine left of the same folder.

    Args:
      folder: to make, with its parents.
      replace: whether an older one gives way; else it must not be there.

    Raises:
      OSError: the disk refuses, see `told_plainly`.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    stem = f".{folder.name}.part-{platform.node()}-"
    for left in folder.parent.glob(f"{stem}*"):
        if not _runs(int(left.name.removeprefix(stem))):
            shutil.rmtree(left)
    part = folder.with_name(f"{stem}{os.getpid()}")
    try:
        with told_plainly(folder):
            part.mkdir()
            yield part
            if replace and folder.exists():
                old = folder.with_name(f".{folder.name}.old-{os.getpid()}")
                folder.rename(old)
                part.rename(folder)
                shutil.rmtree(old, ignore_errors=True)
            else:
                part.rename(folder)
    finally:  # also when interrupted
        shutil.rmtree(part, ignore_errors=True)


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's
        return True
    return True


@contextlib.contextmanager
def told_plainly(path: Path) -> Iterator[None]:
    """Makes an OSError with a number and a path of whatever a library says when a disk refuses.

    array_record raises RuntimeError, safetensors an error of its own and tensorstore ValueError,
    all with the system's words in their text; pyarrow and NumPy raise OSError without a path.
    """
    try:
        yield
    except Exception as error:
        number = None if getattr(error, "filename", None) else _refusal(error)
        if number is None:
            raise
        raise OSError(number, os.strerror(number), str(path)) from error


def _refusal(error: Exception) -> int | None:
    numbers = (number for number in REFUSALS if os.strerror(number) in str(error))
    return next(numbers, None)


def check_space(folder: Path, size: int) -> None:
    """Refuses to begin writing what has no room.

    Args:
      folder: to write into.
      size: in bytes.

    Raises:
      OSError: less is free.
    """
    free = shutil.disk_usage(folder).free
    if free < size:
        lacks = f"for {size / 1e6:,.1f} MB, {free / 1e6:,.1f} MB are free"
        what = f"{os.strerror(errno.ENOSPC)} {lacks}"
        raise OSError(errno.ENOSPC, what, str(folder))
