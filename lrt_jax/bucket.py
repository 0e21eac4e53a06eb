"""Folders in Google Cloud Storage: copied here, copied there, and a workdir that lives in one."""

import base64
import concurrent.futures
import contextlib
import dataclasses
import hashlib
import os
import re
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from tqdm import tqdm

from lrt_jax.disk import ToldError, first_line, told_plainly
from lrt_jax.parallel import processes

SCHEME = "gs://"
COPIES = 8  # files at a time
# Of a workdir: Orbax writes checkpoints to the bucket itself, and a download is had again.
NEVER = ("checkpoints", "downloads")
ONLY_SENT = "export"  # no run reads the model that it exports
FOR_THE_FIRST = ("completions", "scenes", "tensorboard", "curves.png", "metrics.jsonl")
# Folders that appear whole on a disk, by the first word of their names, and the file that says of
# one in a bucket that it is whole.
MARKS = {"data": "build_report.json", "scenes": "scenes.json"}


# Where a bucket refuses or fails: libraries whose errors say so, and words of the others'.
LIBRARIES = ("gcsfs.", "aiohttp.", "fsspec.", "google.auth.", "requests.")
BEGINNINGS = ("Forbidden: ", "Bad Request: ", "Bucket is requester pays")  # gcsfs's
NO_BUCKET = re.compile(r"(^|/)b/[^/?]+/o(\?|$)")  # gcsfs's too: what it asked of the bucket itself
WORDS = (  # tensorstore's, and those of array_record
    "PERMISSION_DENIED",
    "UNAUTHENTICATED",
    "UNAVAILABLE",
    "DEADLINE_EXCEEDED",
    "Permanent error",
    "Retry policy exhausted",
)
# Of what tensorstore says, longer than all the rest.
DETAILS = re.compile(r" \[(tensorstore_spec|http_response).*", re.DOTALL)


class BucketError(ToldError):
    """Why a folder in a bucket cannot be read or written, and what to do about it."""

    @classmethod
    def of(cls, address: str | os.PathLike, what: str, error: Exception) -> "BucketError":
        """Tells what a library says.

        Args:
          address: of the folder.
          what: "read", "fetched" or "written".
          error: of the library.
        """
        why = DETAILS.sub("", first_line(error))
        if isinstance(error, FileNotFoundError):  # of which gcsfs says the path alone
            why = f"no such bucket or object: {why}"
        return cls(
            f"{os.fspath(address)}: cannot be {what} ({why}); see that the bucket is there and "
            "that this machine may use it (gcloud auth application-default login), and give the "
            "same command again" + ": what is whole stays" * (what == "fetched")
        )


@contextlib.contextmanager
def refusals_told(
    address: str | os.PathLike, what: str, *, storage_alone: bool = False
) -> Iterator[None]:
    """Makes a BucketError of what libraries raise where a bucket refuses or fails.

    What they raise over content passes, and all that is raised over another place.

    Args:
      address: of what is read or written.
      what: which of it: "read" or "written".
      storage_alone: whether gcsfs alone is asked, so that a lost line and what is missing are the
        bucket's too, whoever raises them.
    """
    try:
        yield
    except Exception as error:
        known = _is_refusal(error) or (storage_alone and _is_of_no_disk(error))
        if isinstance(error, BucketError) or not (is_address(address) and known):
            raise
        raise BucketError.of(address, what, error) from error


def _is_refusal(error: Exception) -> bool:
    text = str(error)
    return (
        type(error).__module__.startswith(LIBRARIES)
        or text.startswith(BEGINNINGS)
        or (isinstance(error, FileNotFoundError) and bool(NO_BUCKET.search(text)))
        or (SCHEME in text and any(word in text for word in WORDS))
    )


def _is_of_no_disk(error: Exception) -> bool:
    """Whether it is of a line to elsewhere, or without the number that a disk gives."""
    lost = isinstance(error, ConnectionError | TimeoutError)
    return lost or (isinstance(error, OSError) and error.errno is None)


def is_address(path: str | os.PathLike) -> bool:
    """Whether this is a place in a bucket."""
    return str(path).startswith(SCHEME)


class Object(NamedTuple):
    """A file in a bucket; `mark` is another for other content, None where nothing tells."""

    size: int
    mark: str | None


class Bucket:
    """A folder in a bucket.

    Args:
      address: `gs://BUCKET` or `gs://BUCKET/FOLDER`.

    Raises:
      BucketError: gcsfs is not installed.
    """

    def __init__(self, address: str):
        self.address = address.rstrip("/")
        self._prefix = self.address.removeprefix(SCHEME)
        try:  # the plain JSON API: the package's default asks over gRPC first for the bucket's kind
            from gcsfs.core import GCSFileSystem
        except ImportError:
            raise BucketError(f"{address}: gs:// needs gcsfs: pip install 'lrt_jax[gcs]'") from None
        with self._told("read"):
            self._storage = GCSFileSystem(skip_instance_cache=True, use_listings_cache=False)

    def files(self) -> dict[str, Object]:
        """All files, by their paths in the folder; none where there is no such folder.

        Raises:
          BucketError: it cannot be asked, or a name leads out of the folder.
        """
        with self._told("read"):
            found = self._storage.find(self._prefix, detail=True)
        inside = {
            name.removeprefix(f"{self._prefix}/"): about
            for name, about in found.items()
            if name != self._prefix and not name.endswith("/")
        }
        for name in inside:
            if ".." in PurePosixPath(name).parts or PurePosixPath(name).is_absolute():
                raise BucketError(f"{self.address}/{name}: leads out of the folder; rename it")
        return {
            name: Object(int(about["size"]), about.get("md5Hash") or about.get("generation"))
            for name, about in inside.items()
        }

    def fetch(
        self,
        files: Mapping[str, Object],
        target: Path,
        fetched: Callable[[str], None] = lambda name: None,
    ) -> None:
        """Copies files here, several at a time; each has its name once it is whole.

        Args:
          files: of this folder.
          target: folder for them.
          fetched: told the name of each that is whole, from one thread at a time.

        Raises:
          BucketError: they cannot be had, or change meanwhile.
          OSError: the disk refuses.
        """
        telling = threading.Lock()

        def copy(name: str, progress: Any) -> None:
            path = target / name
            part = path.with_name(f".{path.name}.part")
            path.parent.mkdir(parents=True, exist_ok=True)
            self._storage.get_file(f"{self._prefix}/{name}", str(part), callback=progress)
            if part.stat().st_size != files[name].size:
                raise BucketError(f"{self.address}/{name}: it changed; give the command again")
            os.replace(part, path)
            with telling:  # at once, also where another file fails
                fetched(name)

        sizes = {name: file.size for name, file in files.items()}
        with self._told("fetched"):
            _several(copy, sizes, "fetching")

    def put(self, folder: Path, names: Collection[str]) -> None:
        """Copies files of a folder there, several at a time; an object is there whole or not.

        Raises:
          BucketError: they cannot be written.
        """

        def copy(name: str, progress: Any) -> None:
            self._storage.put_file(folder / name, f"{self._prefix}/{name}", callback=progress)

        sizes = {name: (folder / name).stat().st_size for name in names}
        with self._told("written"):
            _several(copy, sizes, "to the bucket")

    def replace(self, folder: Path, mark: str) -> None:
        """Makes this folder hold what one on this machine holds, and nothing else.

        Args:
          folder: on this machine.
          mark: the file in it without which nobody takes it for whole: it goes first, and comes
            last, so that what is cut off is not two halves.

        Raises:
          BucketError: it cannot be written; where nothing may be, nothing has changed.
        """
        new = {x.relative_to(folder).as_posix() for x in folder.rglob("*") if x.is_file()}
        self._write_again(mark)
        self.remove([mark])
        self.put(folder, sorted(new - {mark}))
        self.remove(sorted(self.files().keys() - new))
        self.put(folder, [mark])

    def _write_again(self, name: str) -> None:
        """Writes a file as it is, if it is there: this needs the rights to write and to remove."""
        path = f"{self._prefix}/{name}"
        with self._told("written"), contextlib.suppress(FileNotFoundError):
            self._storage.pipe_file(path, self._storage.cat_file(path))

    def remove(self, names: Iterable[str]) -> None:
        """Removes files, if they are there.

        Raises:
          BucketError: they cannot be removed.
        """
        with self._told("written"):
            for name in names:
                with contextlib.suppress(FileNotFoundError):
                    self._storage.rm_file(f"{self._prefix}/{name}")

    def _told(self, what: str) -> contextlib.AbstractContextManager[None]:
        return refusals_told(self.address, what, storage_alone=True)


def _several(copy: Callable[[str, Any], None], sizes: Mapping[str, int], title: str) -> None:
    """Copies files in threads."""
    from fsspec.callbacks import Callback

    bar = tqdm(total=sum(sizes.values()), unit="B", unit_scale=True, desc=title, delay=3)

    class Progress(Callback):
        def relative_update(self, inc=1):
            bar.update(inc)

    with bar, concurrent.futures.ThreadPoolExecutor(COPIES) as pool:
        copies = [pool.submit(copy, name, Progress()) for name in sizes]
        try:
            for done in concurrent.futures.as_completed(copies):
                done.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


@dataclasses.dataclass(frozen=True)
class OnDisk:
    """A workdir on a disk that all processes see: what `Mirror` is for one in a bucket.

    Attributes:
      folder: the workdir.
    """

    folder: Path

    @property
    def address(self) -> str:
        """Of the workdir."""
        return os.fspath(self.folder)

    def pull(self) -> None:
        """Nothing: all is there."""

    def meet(self, name: str, patience: float = processes.MEETING) -> None:
        """Waits until all processes have come here, see `processes.meet`."""
        processes.meet(name, patience)


@dataclasses.dataclass
class Mirror:
    """A workdir in a bucket, and the copy of it on this machine in which a run works.

    Programs append to files, rename folders and lock, which a bucket does not know. So a run works
    in the copy, and what it has changed there goes to the bucket before each checkpoint that counts
    on it: a run that is lost goes on elsewhere from the bucket alone. Of several processes each has
    a copy; the first alone writes.

    Attributes:
      bucket: the workdir.
      folder: of the copy.
    """

    bucket: Bucket
    folder: Path
    _alike: dict[str, tuple[int, int]] = dataclasses.field(default_factory=dict)
    _marks: dict[str, str | None] = dataclasses.field(default_factory=dict)  # of what was pulled

    @property
    def address(self) -> str:
        """Of the workdir."""
        return self.bucket.address

    def pull(self) -> None:
        """Makes the copy like the bucket, but for what nobody reads, or is not whole there.

        What the first process has whole and the bucket not yet stays for the next push: a push may
        be refused or cut off, and to prepare data takes hours.

        Raises:
          BucketError: the bucket cannot be read.
          OSError: the disk refuses.
        """
        found = self.bucket.files()
        there = {name: found[name] for name in found if _is_read(name) and _is_whole(name, found)}
        here = self._files()
        kept = {name for name in here if processes.is_first() and _is_to_send(name, here, found)}
        with told_plainly(self.folder):
            for name in here.keys() - there.keys() - kept:
                self._remove(self.folder / name)
            changed = {name: x for name, x in there.items() if not self._has(name, x, here)}
            self.bucket.fetch(changed, self.folder)
        self._alike = {name: x for name, x in self._files().items() if name not in kept}
        self._marks = {name: x.mark for name, x in there.items()}

    def _has(self, name: str, there: Object, here: Mapping[str, tuple[int, int]]) -> bool:
        """Whether the copy has what the bucket has; what neither side has touched is not read."""
        untouched = name in here and here[name] == self._alike.get(name)
        if untouched and there.mark is not None and there.mark == self._marks.get(name):
            return True
        return _is_same(self.folder / name, there)

    def push(self) -> None:
        """Puts into the bucket what has changed in the copy, and removes what is gone from it.

        Raises:
          BucketError: the bucket cannot be written.
        """
        here = self._files()
        changed = sorted(name for name in here if here[name] != self._alike.get(name))
        marks = [name for name in changed if name == _mark_of(name)]
        self.bucket.put(self.folder, [name for name in changed if name not in marks])
        self.bucket.put(self.folder, marks)  # once all is there of which they say so
        self.bucket.remove(sorted(self._alike.keys() - here.keys()))
        self._alike = here

    def meet(self, name: str, patience: float = processes.WORK) -> None:
        """Waits until all processes have come here, and see what the first has written.

        Args:
          name: of the place, for people.
          patience: seconds to wait for the last; the first may have much to put there.
        """
        if processes.is_first():
            self.push()
        processes.meet(name, patience)
        if not processes.is_first():
            self.pull()

    def _remove(self, path: Path) -> None:
        """Removes a file, and folders that held nothing else: a build takes them for another's."""
        path.unlink()
        for parent in path.relative_to(self.folder).parents:
            if parent.parts and not any((self.folder / parent).iterdir()):
                (self.folder / parent).rmdir()

    def _files(self) -> dict[str, tuple[int, int]]:
        """What the bucket shall have, and what tells that a file was written again."""
        found = {}
        for path in self.folder.rglob("*"):
            name = path.relative_to(self.folder).as_posix()
            if path.is_file() and _is_shared(name):
                about = path.stat()
                found[name] = (about.st_mtime_ns, about.st_size)
        return found


def _is_shared(name: str) -> bool:
    parts = PurePosixPath(name).parts
    return parts[0] not in NEVER and not any(part.startswith(".") for part in parts)


def _is_read(name: str) -> bool:
    """Whether a process of a run that goes on reads what the bucket has under this name."""
    top = PurePosixPath(name).parts[0]
    wanted = processes.is_first() or top not in FOR_THE_FIRST
    return _is_shared(name) and wanted and top != ONLY_SENT


def _mark_of(name: str) -> str | None:
    """The file that says of the folder of a file that it is whole; None where there is none."""
    top = PurePosixPath(name).parts[0]
    mark = MARKS.get(top.partition("-")[0])
    return mark and f"{top}/{mark}"


def _is_whole(name: str, found: Collection[str]) -> bool:
    """Whether what a file belongs to is in the bucket: a process may be lost while it pushes."""
    mark = _mark_of(name)
    return mark is None or mark in found


def _is_to_send(name: str, here: Collection[str], found: Collection[str]) -> bool:
    """Whether what a file belongs to is whole in the copy, and not in the bucket."""
    return _mark_of(name) in here and not _is_whole(name, found)


def _is_same(path: Path, there: Object) -> bool:
    if not path.is_file() or path.stat().st_size != there.size:
        return False
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "md5").digest()
    return base64.b64encode(digest).decode() == there.mark


Home = OnDisk | Mirror  # of a run: where it lives
