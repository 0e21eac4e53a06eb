"""Writing to disk: whole or not at all, and in plain words where the disk refuses."""

import contextlib
import errno
import fcntl
import glob
import json
import os
import platform
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from etils import epath

LOCK = ".lock"
LONGEST = 300  # characters of what another library says
MADE_ANEW = "restore it, or make it anew"
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
    errno.ENFILE: f"this machine may open no more files: end what holds them, {GOES_ON}",
    errno.EMFILE: "this process may open no more files: raise the limit, as by `ulimit -n 65536`, "
    + GOES_ON,
}
OF_THE_PROCESS = (errno.EMFILE, errno.ENFILE)  # which say nothing of the file


class UserError(ValueError):
    """Says already what to do: nothing puts other words in its place."""


def read_json(path: epath.PathLike, remedy: str = MADE_ANEW) -> Any:
    """What a JSON file holds.

    Args:
      path: of the file.
      remedy: for the error where it holds something else.

    Raises:
      ValueError: it is not JSON, or nested too deeply.
    """
    try:
        return json.loads(epath.Path(path).read_bytes())
    except (ValueError, RecursionError) as error:  # also of text that is not UTF-8
        raise ValueError(f"{path}: not JSON ({error}); {remedy}") from error


def read_fields(path: epath.PathLike, remedy: str = MADE_ANEW) -> dict[str, Any]:
    """The fields of the object that a JSON file holds; as `read_json`.

    Raises:
      ValueError: it is not JSON, or holds something else.
    """
    content = read_json(path, remedy)
    if not isinstance(content, dict):
        what = f"holds a {type(content).__name__}, not an object with fields"
        raise ValueError(f"{path}: {what}; {remedy}")
    return content


def cache_folder(name: str) -> Path:
    """Folder of the user's cache for what can be had again, `$XDG_CACHE_HOME/lrt_jax/NAME`.

    Raises:
      ValueError: neither that variable nor a home folder is known.
    """
    return Path(expanded(os.environ.get("XDG_CACHE_HOME") or "~/.cache")) / "lrt_jax" / name


def expanded(path: epath.PathLike) -> str:
    """A path with the home folder in place of `~`.

    Raises:
      ValueError: there is none, as for a user of a container without HOME.
    """
    found = os.path.expanduser(os.fspath(path))
    if found.startswith("~"):
        raise ValueError(
            f"{path}: nobody knows the home folder that ~ stands for; set HOME, or give the whole "
            "path"
        )
    return found


@contextlib.contextmanager
def read_plainly(path: epath.PathLike, remedy: str) -> Iterator[None]:
    """Makes a ValueError with path and remedy of whatever is raised over a file's content.

    ValueErrors that begin with the path pass, and OSErrors that name it.
    """
    try:
        yield
    except Exception as error:  # of any kind: libraries trip over what they did not expect
        text = str(error)
        named = text.startswith(str(path)) if isinstance(error, ValueError) else str(path) in text
        if isinstance(error, UserError) or (isinstance(error, ValueError | OSError) and named):
            raise
        what = " ".join(f"{type(error).__name__}: {error}".split())[:LONGEST]
        raise ValueError(f"{path}: cannot be used ({what}); {remedy}") from error


def first_line(error: Exception) -> str:
    """The first line of what another library says."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:LONGEST]


def write_atomically(path: epath.PathLike, content: bytes) -> None:
    """Writes a file that is there whole or not at all, however the process or the machine ends.

    Raises:
      OSError: the disk refuses, see `explain`.
    """
    with new_file(path) as unfinished:
        unfinished.write_bytes(content)


@contextlib.contextmanager
def new_file(path: epath.PathLike) -> Iterator[epath.Path]:
    """Yields a file to write, which gets its name once it is whole; if that fails, it is removed.

    Args:
      path: of the file, whose folder is made where there is none; an older one gives way.

    Raises:
      OSError: the disk refuses, see `explain`.
    """
    path = epath.Path(path)
    unfinished = path.parent / f".{path.name}.tmp"
    with explain(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield unfinished
            give_name(unfinished, path)
        except BaseException:
            unfinished.unlink(missing_ok=True)
            raise


def give_name(unfinished: epath.PathLike, path: epath.PathLike) -> None:
    """Gives its name to a file or folder that is whole, also after a loss of power.

    Without asking, a disk may keep the name and lose the content.
    """
    if "://" in os.fspath(path):  # a bucket's objects are whole as they are written
        epath.Path(unfinished).replace(path)
        return
    _sync_all(Path(unfinished))
    os.replace(unfinished, path)
    _sync(Path(path).parent)


def _sync_all(path: Path) -> None:
    for part in path.rglob("*") if path.is_dir() else ():
        if not part.is_symlink():
            _sync(part)
    _sync(path)


def _sync(path: Path) -> None:
    """Waits until a file, or the names in a folder, would outlast a loss of power."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # of a file system that knows no such
            raise
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def new_folder(folder: Path, *, replace: bool = False) -> Iterator[Path]:
    """Yields an empty folder that gets its name once it is whole; if that fails, it is removed.

    What a killed process of this machine left of the same folder is put right before.

    Args:
      folder: to make, with its parents; where it is a link, what it leads to.
      replace: whether an older one gives way; else it must not be there.

    Raises:
      OSError: the disk refuses, see `explain`.
    """
    _put_right(folder)
    folder = behind_link(folder)
    _put_right(folder)
    part, old = _beside(folder, "part"), _beside(folder, "old")
    try:
        with explain(folder):
            part.mkdir()
            yield part
            if replace and folder.exists():
                folder.rename(old)
            give_name(part, folder)
            shutil.rmtree(old, ignore_errors=True)
    finally:  # also when interrupted
        shutil.rmtree(part, ignore_errors=True)


def behind_link(path: Path) -> Path:
    """What a link leads to, be it there or not; a path that is no link stays as it is."""
    return Path(os.path.realpath(path)) if path.is_symlink() else path


def _beside(folder: Path, role: str, process: int | str = "") -> Path:
    return folder.with_name(f".{folder.name}.{role}-{platform.node()}-{process or os.getpid()}")


def _put_right(folder: Path) -> None:
    """Removes what dead processes had begun, and gives back what they had moved away.

    Of links, which somebody else has made, what they lead to stays.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    escaped = folder.with_name(glob.escape(folder.name))  # its own name is no pattern
    for role in ("part", "old"):
        for left in folder.parent.glob(_beside(escaped, role, "*").name):
            process = left.name.rpartition("-")[2]
            # One's own number was another's, in a container that was started again.
            if process != str(os.getpid()) and (not process.isdigit() or _runs(int(process))):
                continue
            if role == "old" and not folder.exists():
                left.rename(folder)
            elif left.is_symlink():
                left.unlink()
            else:
                shutil.rmtree(left)


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's
        return True
    return True


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keeps other processes out of a folder; the lock ends with the process, however that ends.

    Raises:
      ValueError: another process has it; the message says which. Or the lock is a link, through
        which another file would be emptied.
    """
    with _open_lock(folder / LOCK) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise ValueError(
                f"{folder}: in use by {file.read() or 'another process'}; wait until that has "
                "ended, or name another folder"
            ) from None
        file.truncate(0)
        file.write(f"process {os.getpid()} of {platform.node()}")
        file.flush()
        yield


def _open_lock(path: Path) -> TextIO:
    try:
        return open(
            path,
            "a+",
            encoding="utf-8",
            opener=lambda name, how: os.open(name, how | os.O_NOFOLLOW, 0o666),
        )
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise ValueError(
            f"{path}: a link, which a lock is never written through; remove it"
        ) from None


@contextlib.contextmanager
def explain(path: epath.PathLike) -> Iterator[None]:
    """Makes an OSError with number, path and remedy of whatever is said when a disk refuses.

    array_record raises RuntimeError, safetensors an error of its own and tensorstore ValueError,
    all with the system's words in their text; others raise OSError without a path.
    """
    try:
        yield
    except UserError:  # whose text may hold the words of a disk elsewhere
        raise
    except Exception as error:
        number = _refusal(error)
        if number is None or _is_elsewhere(error, str(path)) or _has_remedy(error, number):
            raise
        raise _explained(number, path) from error


def pass_on_limits(error: Exception, path: epath.PathLike) -> None:
    """Raises the error of a process that may open no more files: the file may well be whole.

    Raises:
      OSError: with the remedy.
    """
    if _refusal(error) in OF_THE_PROCESS:
        raise _explained(_refusal(error), path) from error


def _explained(number: int, path: epath.PathLike, more: str = "") -> OSError:
    message = OSError(number, os.strerror(number) + more, str(path))
    message.add_note(REFUSALS[number])
    return message


def _refusal(error: Exception) -> int | None:
    if isinstance(error, OSError) and error.errno:
        return error.errno if error.errno in REFUSALS else None
    return next((number for number in REFUSALS if os.strerror(number) in str(error)), None)


def _is_elsewhere(error: Exception, path: str) -> bool:
    """Whether it is about a file that is read on the way."""
    names = [getattr(error, name, None) for name in ("filename", "filename2")]
    hidden = f"{os.sep}.{os.path.basename(path)}."
    known = [str(name) for name in names if name]
    return bool(known) and not any(n.startswith(path) or hidden in n for n in known)


def _has_remedy(error: Exception, number: int) -> bool:
    return REFUSALS[number] in getattr(error, "__notes__", ())


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
        lacks = f" for {size / 1e6:,.1f} MB, {free / 1e6:,.1f} MB are free"
        raise _explained(errno.ENOSPC, folder, lacks)
