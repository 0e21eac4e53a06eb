"""Folders in Google Cloud Storage: copied here, copied there, and why they cannot be."""

import base64
import concurrent.futures
import contextlib
import hashlib
import os
import re
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from tqdm import tqdm

from lrt_jax.storage.disk import UserError, first_line, give_name

SCHEME = "gs://"
COPIES = 8  # files at a time
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


class BucketError(UserError):
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
def explain_refusals(
    address: str | os.PathLike, what: str, *, storage_alone: bool = False
) -> Iterator[None]:
    """Raises what libraries raise where a bucket refuses or fails as a BucketError.

    Errors of content pass, and those of other paths.

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
    """Whether an error is of the network: of a disk it would have a number."""
    lost = isinstance(error, ConnectionError | TimeoutError)
    return lost or (isinstance(error, OSError) and error.errno is None)


def is_address(path: str | os.PathLike) -> bool:
    """Whether a path is in a bucket."""
    return str(path).startswith(SCHEME)


class Object(NamedTuple):
    """A file in a bucket; `version` is another for other content, None where nothing tells.

    It is the `digest` of the file, but for objects that were composed of several. `written` is the
    time of that, as text that sorts.
    """

    size: int
    version: str | None
    written: str = ""


def digest(path: Path) -> str:
    """MD5 of a file's bytes, in the letters in which a bucket tells it of an object."""
    with path.open("rb") as file:
        return base64.b64encode(hashlib.file_digest(file, "md5").digest()).decode()


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
        with self._explaining("read"):
            self._storage = GCSFileSystem(skip_instance_cache=True, use_listings_cache=False)

    def files(self) -> dict[str, Object]:
        """All files, by their paths in the folder; none where there is no such folder.

        Raises:
          BucketError: it cannot be asked, or a name leads out of the folder.
        """
        with self._explaining("read"):
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
            name: Object(
                int(about["size"]),
                about.get("md5Hash") or about.get("generation"),
                about.get("updated", ""),
            )
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
          fetched: called with the name of each that is whole, from one thread at a time.

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
            give_name(part, path)
            with telling:  # at once, also where another file fails
                fetched(name)

        sizes = {name: file.size for name, file in files.items()}
        with self._explaining("fetched"):
            _several(copy, sizes, "fetching")

    def put(self, folder: Path, names: Collection[str]) -> None:
        """Copies files of a folder there, several at a time; an object is there whole or not.

        Raises:
          BucketError: they cannot be written.
        """

        def copy(name: str, progress: Any) -> None:
            self._storage.put_file(folder / name, f"{self._prefix}/{name}", callback=progress)

        sizes = {name: (folder / name).stat().st_size for name in names}
        with self._explaining("written"):
            _several(copy, sizes, "to the bucket")

    def replace(self, folder: Path, old: Collection[str], *, first: str, mark: str) -> None:
        """Puts the files of a folder on this machine in the place of others.

        Args:
          folder: on this machine.
          old: files of this folder that give way; no others are removed.
          first: the file in it that lists its files. It comes before any other, and while it is
            the old one, no new file is there: what is cut off holds nothing that is not listed.
          mark: the file in it without which nobody takes it for whole: it goes first, and comes
            last, so that what is cut off is not two halves.

        Raises:
          BucketError: it cannot be written; where nothing may be, nothing has changed.
        """
        new = {x.relative_to(folder).as_posix() for x in folder.rglob("*") if x.is_file()}
        self._write_again(mark)
        self.remove([name for name in old if name == mark])
        self.remove(sorted({*old} - {first, mark}))
        self.put(folder, [first])
        self.put(folder, sorted(new - {first, mark}))
        self.put(folder, [mark])

    def _write_again(self, name: str) -> None:
        """Writes a file as it is, if it is there: this needs the rights to write and to remove."""
        path = f"{self._prefix}/{name}"
        with self._explaining("written"), contextlib.suppress(FileNotFoundError):
            self._storage.pipe_file(path, self._storage.cat_file(path))

    def remove(self, names: Iterable[str]) -> None:
        """Removes files, if they are there.

        Raises:
          BucketError: they cannot be removed.
        """
        with self._explaining("written"):
            for name in names:
                with contextlib.suppress(FileNotFoundError):
                    self._storage.rm_file(f"{self._prefix}/{name}")

    def _explaining(self, what: str) -> contextlib.AbstractContextManager[None]:
        return explain_refusals(self.address, what, storage_alone=True)


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
