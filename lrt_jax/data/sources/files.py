"""The files of a downloaded data set: loose, in zips and tars, and in the cells of parquet files.

Nothing is unpacked: an image is named by a `FileRef` and read where it lies. A name never leads out
of the input folder, neither by `..`, nor as an absolute path, nor through a link.
"""

import contextlib
import functools
import io
import itertools
import re
import tarfile
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from lrt_jax.data.images import ImageError
from lrt_jax.data.schema import FileRef

ARCHIVES = re.compile(r"\.(zip|tar|tgz|tar\.gz)(\.\w+)?$")  # the last: a part of a split tar
ROWS = 64  # of a parquet file, read at a time

Load = Callable[[], bytes]


class SourceError(ValueError):
    """A source whose files are missing or not in the published layout."""


class InputFolder:
    """A folder with a downloaded data set.

    Args:
      root: the folder.

    Raises:
      SourceError: there is no such folder.
    """

    def __init__(self, root: str | Path):
        self.root = Path(root)
        self._zips: dict[str, zipfile.ZipFile] = {}
        if not self.root.is_dir():
            raise SourceError(f"{root}: no such folder; give the folder of the downloaded data set")

    def path(self, ref: FileRef) -> Path:
        """Of the file, or of the container that holds it."""
        return self.root / ref.file

    def place(self, ref: FileRef | str) -> str:
        """What to call a file in errors."""
        return f"{self.root}/{ref}"

    def names(self, pattern: str) -> list[FileRef]:
        """Files, loose or in archives, whose path inside the folder matches, sorted by that.

        Args:
          pattern: regular expression of a whole path, forward slashes; a member's path is that of
            its archive, without endings, and its own.
        """
        loose = {self._name(path): FileRef(self._name(path)) for path in self._files}
        found = {**self._members, **loose}
        return [found[name] for name in sorted(found) if re.fullmatch(pattern, name)]

    def find(self, name: str, folders: Sequence[str] = ("",)) -> FileRef:
        """An image that a record names, loose or in an archive.

        Args:
          name: as the record has it.
          folders: inside the input folder, where to look, also for the name without its own
            folders.

        Returns:
          The first loose file that is there; else the member of an archive whose path ends most
          alike; else where it was expected: what to do about that is for the builder to say, which
          may be told to go on without it.

        Raises:
          SourceError: two members fit equally well.
        """
        plain = PurePosixPath(name.replace("\\", "/"))
        if _leads_out(plain):
            return FileRef(str(plain))  # which is refused when it is read
        for folder, part in itertools.product(folders, dict.fromkeys((str(plain), plain.name))):
            with contextlib.suppress(OSError, ValueError):  # of a name that no file can have
                if (self.root / folder / part).is_file():
                    return FileRef(str(PurePosixPath(folder, part)))
        expected = [PurePosixPath(folder, plain) for folder in folders]
        return self._member(plain.name, expected) or FileRef(str(expected[0]))

    def _member(self, name: str, expected: Sequence[PurePosixPath]) -> FileRef | None:
        candidates = self._members_by_name.get(name, ())
        alike = {path: max(_common_end(path, e) for e in expected) for path in candidates}
        best = [path for path, count in alike.items() if count == max(alike.values())]
        if len(best) > 1:
            raise SourceError(
                f"{self.root}: {name!r} may be {best[0]} or {best[1]}; unpack the archives, so "
                "that the path says which"
            )
        return self._members[best[0]] if best else None

    # ------------------------------------------------------------------ reading

    def read(self, ref: FileRef) -> bytes:
        """One file, for texts and tables.

        Raises:
          SourceError: it is not there, or cannot be read.
        """
        try:
            return next(load for _, load in self.loads([ref]))()
        except ImageError as error:
            raise SourceError(f"{self.place(ref)}: {error.reason}; fetch it again") from None

    def loads(self, refs: Iterable[FileRef]) -> Iterator[tuple[FileRef, Load]]:
        """What reads each file, container by container, each of those from begin to end.

        A load may be called in any thread, and raises ImageError where the file cannot be read.
        Tars and parquet files are read here, in passing; anything else in the load.
        """
        by_file: dict[str, list[FileRef]] = {}
        for ref in dict.fromkeys(refs):
            by_file.setdefault(ref.file if ref.member else "", []).append(ref)
        for file, group in by_file.items():
            yield from self._reader(file)(file, group)

    def _reader(self, file: str) -> Callable[[str, list[FileRef]], Iterator]:
        if not file:
            return self._loose
        if file.endswith(".parquet"):
            return self._cells
        return self._zipped if re.search(r"\.zip$", file) else self._tarred

    def _loose(self, _: str, refs: list[FileRef]) -> Iterator[tuple[FileRef, Load]]:
        for ref in refs:
            yield ref, functools.partial(self._load_loose, ref)

    def _load_loose(self, ref: FileRef) -> bytes:
        try:
            path = self.path(ref).resolve()
            if not path.is_relative_to(self.root.resolve()):
                raise ImageError(self.place(ref), "outside the input folder", f"it is {path}")
            if not path.is_file():
                raise ImageError(self.place(ref), "no such file")
            return path.read_bytes()
        except (OSError, ValueError) as error:
            if isinstance(error, ImageError):
                raise
            raise ImageError(self.place(ref), "cannot be read", str(error)) from None

    def _zipped(self, file: str, refs: list[FileRef]) -> Iterator[tuple[FileRef, Load]]:
        archive = self._zip(file)
        for ref in sorted(refs, key=lambda ref: _offset(archive, ref)):
            yield ref, functools.partial(self._load_zipped, archive, ref)

    def _load_zipped(self, archive: zipfile.ZipFile, ref: FileRef) -> bytes:
        self._check_member(ref)
        try:
            return archive.read(ref.member)
        except KeyError:
            raise ImageError(self.place(ref), "no such file") from None
        except Exception as error:  # of what zlib and its siblings trip over
            raise ImageError(self.place(ref), "cannot be read", str(error)) from None

    def _tarred(self, file: str, refs: list[FileRef]) -> Iterator[tuple[FileRef, Load]]:
        wanted = {ref.member: ref for ref in refs}
        with self._tar(file) as archive:
            for info in archive:
                if ref := wanted.pop(info.name, None):
                    yield ref, self._keep(ref, lambda i=info: archive.extractfile(i).read(), info)
        for ref in wanted.values():
            yield ref, self._failing(ref, "no such file")

    def _keep(self, ref: FileRef, read: Load, info: tarfile.TarInfo) -> Load:
        try:
            self._check_member(ref)
            if not info.isfile():
                return self._failing(ref, "outside the input folder", "a link in an archive")
            data = read()
        except ImageError as error:
            return self._failing(ref, error.reason, error.detail)
        return lambda: data

    def _cells(self, file: str, refs: list[FileRef]) -> Iterator[tuple[FileRef, Load]]:
        from pyarrow import parquet

        rows: dict[int, list[FileRef]] = {}
        for ref in refs:
            rows.setdefault(ref.column_and_row[1], []).append(ref)
        columns = sorted({ref.column_and_row[0] for ref in refs})
        with self._opened(parquet.ParquetFile, file) as table:
            first = 0
            for batch in table.iter_batches(ROWS, columns=columns):
                for row in range(first, first + len(batch)):
                    for ref in rows.get(row, ()):
                        yield (
                            ref,
                            self._cell(ref, batch[ref.column_and_row[0]][row - first].as_py()),
                        )
                first += len(batch)

    def _cell(self, ref: FileRef, value: Any) -> Load:
        data = value.get("bytes") if isinstance(value, dict) else value
        if not isinstance(data, bytes):
            return self._failing(ref, "no bytes in the cell", f"but {type(data).__name__}")
        return lambda: data

    def _failing(self, ref: FileRef, reason: str, detail: str = "") -> Load:
        def load() -> bytes:
            raise ImageError(self.place(ref), reason, detail)

        return load

    def _check_member(self, ref: FileRef) -> None:
        if _leads_out(PurePosixPath(ref.member.replace("\\", "/"))):
            raise ImageError(self.place(ref), "outside the input folder", "a path in an archive")

    # ------------------------------------------------------------------ archives

    @functools.cached_property
    def _files(self) -> list[Path]:
        return [path for path in sorted(self.root.rglob("*")) if path.is_file()]

    def _name(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix()

    @functools.cached_property
    def _members(self) -> dict[str, FileRef]:
        """Members of all archives by path: the archive's, without endings, and their own."""
        found: dict[str, FileRef] = {}
        for file in self._archives:
            stem = ARCHIVES.sub("", file)
            for member in self._listed(file):
                found[f"{stem}/{member}"] = FileRef(file, member)
        return found

    @functools.cached_property
    def _members_by_name(self) -> dict[str, list[str]]:
        names: dict[str, list[str]] = {}
        for path in self._members:
            names.setdefault(PurePosixPath(path).name, []).append(path)
        return names

    @functools.cached_property
    def _archives(self) -> dict[str, list[str]]:
        """Archives, each with its parts; most are whole."""
        whole: dict[str, list[str]] = {}
        for name in map(self._name, self._files):
            if match := ARCHIVES.search(name):
                stem = name.removesuffix(match[2] or "")
                whole.setdefault(stem, []).append(name)
        return {parts[0]: parts for parts in whole.values()}

    def _listed(self, file: str) -> list[str]:
        if file.endswith(".zip"):
            return [info.filename for info in self._zip(file).infolist() if not info.is_dir()]
        with self._tar(file) as archive:
            return [info.name for info in archive if not info.isdir()]

    def _zip(self, file: str) -> zipfile.ZipFile:
        """A zip that stays open: its members are read later, in several threads."""
        if file not in self._zips:
            with self._opened(contextlib.nullcontext, file) as _:
                self._zips[file] = zipfile.ZipFile(self.root / file)
        return self._zips[file]

    @contextlib.contextmanager
    def _opened(self, opener: Callable, file: str) -> Iterator[Any]:
        """An archive or a table; what goes wrong names it."""
        try:
            with opener(self.root / file) as opened:
                yield opened
        except (SourceError, ImageError, GeneratorExit):
            raise
        except Exception as error:  # every library has errors of its own
            raise SourceError(
                f"{self.root / file}: cannot be read ({error}); fetch it again"
            ) from error

    @contextlib.contextmanager
    def _tar(self, file: str) -> Iterator[tarfile.TarFile]:
        """A tar, read once from begin to end, in however many parts it lies."""
        parts = [self.root / part for part in self._archives[file]]
        with (
            self._opened(lambda _: contextlib.closing(_Joined(parts)), file) as stream,
            self._opened(lambda _: tarfile.open(fileobj=stream, mode="r|*"), file) as archive,
        ):
            yield archive


def _leads_out(path: PurePosixPath) -> bool:
    return path.is_absolute() or ".." in path.parts


def _offset(archive: zipfile.ZipFile, ref: FileRef) -> int:
    info = archive.NameToInfo.get(ref.member)
    return info.header_offset if info else -1


def _common_end(path: str, expected: PurePosixPath) -> int:
    """How many parts two paths have in common, counted from their ends."""
    pairs = zip(reversed(PurePosixPath(path).parts), reversed(expected.parts), strict=False)
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))


class _Joined(io.RawIOBase):
    """Files read one after another as one."""

    def __init__(self, parts: Sequence[Path]):
        self._rest = iter(parts)
        self._file = next(self._rest).open("rb")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        while not (count := self._file.readinto(buffer)):
            following = next(self._rest, None)
            if following is None:
                return 0
            self._file.close()
            self._file = following.open("rb")
        return count

    def close(self) -> None:
        self._file.close()
        super().close()
