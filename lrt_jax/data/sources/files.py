"""The files of a downloaded data set: loose, in zips and tars, and in the cells of parquet files.

Nothing is unpacked: an image is named by a `FileRef` and read where it lies. A name never leads out
of the input folder and the one other folder that may be named for loose images, neither by `..`,
nor as an absolute path, nor through a link.
"""

import contextlib
import functools
import itertools
import os
import re
import tarfile
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from lrt_jax.data.images import UNREADABLE, ImageError
from lrt_jax.data.schema import FileRef
from lrt_jax.data.sources.archives import archives, opened_tar, without_endings
from lrt_jax.data.sources.errors import ArchiveError, SourceError
from lrt_jax.data.sources.limits import IMAGE_BYTES, TABLE_BYTES, unpacked_bytes
from lrt_jax.data.sources.row_batches import row_batches
from lrt_jax.storage.disk import expanded, pass_on_limits

TOO_LARGE = "file too large"

Load = Callable[[], bytes]


class InputFolder:
    """A folder with a downloaded data set.

    Args:
      root: the folder.
      image_root: folder in which loose images are found too, by absolute paths, by paths relative
        to it, and through links that lead into it.

    Raises:
      SourceError: there is no such folder.
    """

    def __init__(self, root: str | Path, image_root: str | Path | None = None):
        self.root = Path(root)
        self.image_root = None if image_root is None else Path(expanded(image_root))
        self._zips: dict[str, zipfile.ZipFile] = {}
        _check_folder(self.root, "give the folder of the downloaded data set")
        if self.image_root:
            _check_folder(self.image_root, "image_root is a folder of images")
        self._roots = [folder for folder in (self.root, self.image_root) if folder]
        self._resolved = [folder.resolve() for folder in self._roots]

    def path(self, ref: FileRef) -> Path:
        """Of the file, or of the container that holds it.

        Raises:
          SourceError: it leads out of the folder.
        """
        try:
            return self._path(ref)
        except ImageError as error:
            raise SourceError(str(error)) from None

    def _path(self, ref: FileRef) -> Path:
        path = self.root / ref.file
        if self.image_root and not ref.member and not path.exists():
            path = self.image_root / ref.file
        if not self._is_inside(path.resolve()):
            raise ImageError(
                self.origin(ref),
                "outside the input folder",
                f"it is {path.resolve()}; copy it there, or name its folder with --image_root of "
                "lrt_jax.prepare",
            )
        return path

    def _is_inside(self, resolved: Path) -> bool:
        return any(resolved.is_relative_to(root) for root in self._resolved)

    def origin(self, ref: FileRef) -> str:
        """What to call a file in errors."""
        return str(ref) if ref.file.startswith("/") else f"{self.root}/{ref}"

    def parts(self, ref: FileRef) -> list[Path]:
        """All files that hold one: the parts of a split tar, else the file or container itself.

        Raises:
          SourceError: one leads out of the folder.
        """
        names = self._archives.get(ref.file, [ref.file]) if ref.member else [ref.file]
        return [self.path(FileRef(name)) for name in names]

    def names(self, pattern: str) -> list[FileRef]:
        """Files whose path inside the folder matches a pattern, sorted by path; of archives too.

        Tars, which have no list of what they hold, are looked through where there is no other.

        Args:
          pattern: regular expression of a whole path, forward slashes; a member's path is that of
            its archive, without endings, and its own.
        """
        found = self._matching(pattern)
        return [found[name] for name in sorted(found)]

    def table(self, pattern: str) -> FileRef | None:
        """The one file that `names` finds, or the one least deep in folders; None without any.

        Raises:
          SourceError: two lie equally deep.
        """
        found = self._matching(pattern)
        by_depth = sorted(found, key=lambda name: (name.count("/"), name))
        if by_depth[1:] and by_depth[0].count("/") == by_depth[1].count("/"):
            raise SourceError(
                f"{self.root}: both {by_depth[0]} and {by_depth[1]} may be meant; give the folder "
                "of the one, or move the other away"
            )
        return found[by_depth[0]] if by_depth else None

    def _matching(self, pattern: str) -> dict[str, FileRef]:
        whole = re.compile(pattern)
        near = {**self._zipped_members, **{name: FileRef(name) for name in self._files}}
        return {name: ref for name, ref in near.items() if whole.fullmatch(name)} or {
            name: ref for name, ref in self._members.items() if whole.fullmatch(name)
        }

    def find(
        self, name: str, folders: Sequence[str] = ("",), *, unique_names: bool = False
    ) -> FileRef:
        """An image that a record names, loose or in an archive.

        The whole path must be there: in numbered images, 1.png of another folder is another image.
        An archive's own path, without endings, may lead to the member's or not.

        Args:
          name: as the record has it.
          folders: inside the input folder, where to look.
          unique_names: whether no two images of the source share a name, so that one is known
            without the folders that the record gives it. Likewise a name that has none.

        Returns:
          The first loose file that is there; else the member of an archive; else the file in
          `image_root`; else, by its name alone where that will do, the one whose path ends most
          alike; else where it was expected: what to do about that is for the builder to say, which
          may be asked to go on without it.

        Raises:
          SourceError: two members fit equally well, or a file of each folder.
        """
        plain = PurePosixPath(name.replace("\\", "/"))
        if plain.is_absolute():
            return FileRef(str(self._relative(plain)))
        if _leads_out(plain):
            return FileRef(str(plain))  # which is refused when it is read
        expected = [PurePosixPath(folder, plain) for folder in folders]
        found = self._loose_file(expected) or self._packed(expected) or self._elsewhere(expected)
        if not found and (unique_names or plain.name == str(plain)):
            beside = [PurePosixPath(folder, plain.name) for folder in folders]
            found = self._loose_file(beside) or self._named(plain.name, expected)
        return found or FileRef(str(expected[0]))

    def _relative(self, path: PurePosixPath) -> PurePosixPath:
        """An absolute path as it is called in the folder that it leads to; itself where in none."""
        for root, resolved in zip(self._roots, self._resolved, strict=True):
            around = next((x for x in (root.absolute(), resolved) if path.is_relative_to(x)), path)
            inside = path.relative_to(around)
            if around == path or ".." in inside.parts:
                continue
            if root != self.root and (self.root / inside).exists():
                raise SourceError(
                    f"{path}: {self.root / inside} has the same name in the input folder; rename "
                    "one of the two"
                )
            return inside
        return path  # which is refused when it is read

    def _elsewhere(self, expected: Sequence[PurePosixPath]) -> FileRef | None:
        """The file of one of these paths that `_files` does not list.

        It lies in `image_root`, or behind a link: where that leads out, it is refused when read.
        """
        there = (p for p in expected for root in self._roots if _is_file(root / p))
        return next((FileRef(str(path)) for path in there), None)

    def _loose_file(self, expected: Sequence[PurePosixPath]) -> FileRef | None:
        return next((FileRef(str(path)) for path in expected if str(path) in self._files), None)

    def _packed(self, expected: Sequence[PurePosixPath]) -> FileRef | None:
        """The member of an archive with the first of these paths that there is."""
        if not self._archives:
            return None
        for path in map(str, expected):
            spelled = {path, *(f"{stem}/{path}" for stem in self._stems)}
            spelled |= {
                f"{stem}/{path.removeprefix(beside)}"
                for stem, beside in self._stems.items()
                if path.startswith(beside)
            }
            if found := sorted(name for name in spelled if name in self._members):
                return self._only(path, found)
        return None

    def _named(self, name: str, expected: Sequence[PurePosixPath]) -> FileRef | None:
        """The member of that name whose path ends most alike."""
        candidates = self._members_by_name.get(name, ())
        alike = {path: max(_common_end(path, e) for e in expected) for path in candidates}
        best = [path for path, count in alike.items() if count == max(alike.values())]
        return self._only(name, best) if best else None

    def _only(self, name: str, paths: Sequence[str]) -> FileRef:
        if len(paths) > 1:
            raise SourceError(
                f"{self.root}: {name!r} may be {paths[0]} or {paths[1]}; unpack the archives, so "
                "that the path says which"
            )
        return self._members[paths[0]]

    # ------------------------------------------------------------------ reading

    def read(self, ref: FileRef) -> bytes:
        """One file, for texts and tables.

        Raises:
          SourceError: it is not there, cannot be read, or leads out of the folder.
        """
        self.path(ref)
        try:
            return next(load for _, load in self.loads([ref], TABLE_BYTES))()
        except ImageError as error:
            remedy = "split it" if error.reason == TOO_LARGE else "fetch it again"
            raise SourceError(f"{error}; {remedy}") from None

    def loads(
        self, refs: Iterable[FileRef], most: int = IMAGE_BYTES
    ) -> Iterator[tuple[FileRef, Load]]:
        """What reads each file, container by container, each of those from begin to end.

        A load may be called in any thread, and raises ImageError where the file cannot be read, or
        has more than `most` bytes. Tars and parquet files are read here, in passing; anything else
        in the load.
        """
        by_file: dict[str, list[FileRef]] = {}
        for ref in dict.fromkeys(refs):
            by_file.setdefault(ref.file if ref.member else "", []).append(ref)
        for file, group in by_file.items():
            yield from self._reader(file)(file, group, most)

    def stream(self, ref: FileRef) -> str:
        """The container that is only read from begin to end; empty where a file has none such."""
        reader = self._reader(ref.file if ref.member else "")
        return ref.file if reader in (self._tarred, self._cells) else ""

    def _reader(self, file: str) -> Callable[[str, list[FileRef]], Iterator]:
        if not file:
            return self._loose
        if file.endswith(".parquet"):
            return self._cells
        return self._zipped if file.endswith(".zip") else self._tarred

    def _loose(self, _: str, refs: list[FileRef], most: int) -> Iterator[tuple[FileRef, Load]]:
        for ref in refs:
            yield ref, functools.partial(self._load_loose, ref, most)

    def _load_loose(self, ref: FileRef, most: int) -> bytes:
        try:
            path = self._path(ref)
            if not path.is_file():
                reason = "a folder, not a file" if path.is_dir() else "no such file"
                raise ImageError(self.origin(ref), reason)
            self._check_size(ref, path.stat().st_size, most)
            return path.read_bytes()
        except ImageError:
            raise
        except (OSError, ValueError) as error:  # also of a name that no file can have
            pass_on_limits(error, self.root / ref.file)
            raise ImageError(self.origin(ref), UNREADABLE, str(error)) from None

    def _zipped(self, file: str, refs: list[FileRef], most: int) -> Iterator[tuple[FileRef, Load]]:
        archive = self._zip(file)
        for ref in sorted(refs, key=lambda ref: _offset(archive, ref)):
            yield ref, functools.partial(self._load_zipped, archive, ref, most)

    def _load_zipped(self, archive: zipfile.ZipFile, ref: FileRef, most: int) -> bytes:
        self._check_member(ref)
        try:
            info = archive.getinfo(ref.member)
            self._check_size(ref, info.file_size, min(most, unpacked_bytes(info.compress_size)))
            with archive.open(info) as member:
                return member.read(info.file_size + 1)  # `read()` would unpack more than it returns
        except ImageError:
            raise
        except KeyError:
            raise ImageError(self.origin(ref), "no such file") from None
        except Exception as error:  # of what zlib and its siblings trip over
            raise ImageError(self.origin(ref), UNREADABLE, str(error)) from None

    def _tarred(self, file: str, refs: list[FileRef], most: int) -> Iterator[tuple[FileRef, Load]]:
        wanted = {ref.member: ref for ref in refs}
        packed = sum(part.stat().st_size for part in self.parts(refs[0]))
        most = min(most, unpacked_bytes(packed))
        with self._tar(file) as archive:
            for info in archive:
                if ref := wanted.pop(info.name, None):
                    yield ref, self._keep(ref, archive, info, most)
        for ref in wanted.values():
            yield ref, self._failing(ref, "no such file")

    def _keep(
        self, ref: FileRef, archive: tarfile.TarFile, info: tarfile.TarInfo, most: int
    ) -> Load:
        try:
            self._check_member(ref)
            if not info.isfile():
                return self._failing(ref, "outside the input folder", "a link in an archive")
            self._check_size(ref, info.size, most)
            data = archive.extractfile(info).read()
        except ImageError as error:
            return self._failing(ref, error.reason, error.detail)
        return lambda: data

    def _cells(self, file: str, refs: list[FileRef], most: int) -> Iterator[tuple[FileRef, Load]]:
        from pyarrow import parquet

        rows: dict[int, list[FileRef]] = {}
        for ref in refs:
            rows.setdefault(ref.column_and_row[1], []).append(ref)
        columns = sorted({ref.column_and_row[0] for ref in refs})
        with self._opened(parquet.ParquetFile, file) as table:
            for first, batch in row_batches(table, self.root / file, columns):
                for row in range(len(batch)):
                    for ref in rows.pop(first + row, ()):
                        value = batch[ref.column_and_row[0]][row].as_py()
                        yield ref, self._cell(ref, value, most)
        for ref in itertools.chain.from_iterable(rows.values()):
            yield ref, self._failing(ref, "no such row")

    def _cell(self, ref: FileRef, value: Any, most: int) -> Load:
        if isinstance(value, list) and len(value) == 1:
            (value,) = value
        data = value.get("bytes") if isinstance(value, dict) else value
        if not isinstance(data, bytes):
            return self._failing(ref, "no bytes in the cell", f"but {type(data).__name__}")
        try:
            self._check_size(ref, len(data), most)
        except ImageError as error:
            return self._failing(ref, error.reason, error.detail)
        return lambda: data

    def _failing(self, ref: FileRef, reason: str, detail: str = "") -> Load:
        def load() -> bytes:
            raise ImageError(self.origin(ref), reason, detail)

        return load

    def _check_size(self, ref: FileRef, size: int, most: int) -> None:
        if size > most:
            detail = f"{size:,} bytes, of which at most {most:,} are read"
            raise ImageError(self.origin(ref), TOO_LARGE, detail)

    def _check_member(self, ref: FileRef) -> None:
        if _leads_out(PurePosixPath(ref.member.replace("\\", "/"))):
            raise ImageError(self.origin(ref), "outside the input folder", "a path in an archive")

    # ------------------------------------------------------------------ archives

    @functools.cached_property
    def _files(self) -> dict[str, None]:
        """Names of all loose files, but for hidden ones, in order."""
        found, entered = [], set(self._resolved[:1])
        for folder, folders, names in os.walk(self.root, followlinks=True):
            folders[:] = [
                name
                for name in folders
                if not name.startswith(".") and self._is_entered(Path(folder, name), entered)
            ]
            here = (Path(folder, name) for name in names if not name.startswith("."))
            found += [path.relative_to(self.root).as_posix() for path in here if path.is_file()]
        return dict.fromkeys(sorted(found))

    def _is_entered(self, folder: Path, entered: set[Path]) -> bool:
        """Whether a folder is looked into: of links only those into `image_root`, each once."""
        if not folder.is_symlink():
            return True
        target = folder.resolve()
        if target in entered or not any(target.is_relative_to(x) for x in self._resolved[1:]):
            return False
        entered.add(target)
        return True

    @functools.cached_property
    def _members(self) -> dict[str, FileRef]:
        """Members of all archives by path: the archive's, without endings, and their own."""
        tars = (file for file in self._archives if not file.endswith(".zip"))
        return {**self._zipped_members, **self._inside(tars)}

    @functools.cached_property
    def _zipped_members(self) -> dict[str, FileRef]:
        return self._inside(file for file in self._archives if file.endswith(".zip"))

    def _inside(self, archives: Iterable[str]) -> dict[str, FileRef]:
        return {
            f"{without_endings(file)}/{PurePosixPath(member)}": FileRef(file, member)
            for file in archives
            for member in self._listed(file)
        }

    @functools.cached_property
    def _members_by_name(self) -> dict[str, list[str]]:
        names: dict[str, list[str]] = {}
        for path in self._members:
            names.setdefault(PurePosixPath(path).name, []).append(path)
        return names

    @functools.cached_property
    def _archives(self) -> dict[str, list[str]]:
        """Archives, each with its parts; most are whole."""
        try:
            return archives(self._files)
        except SourceError as error:
            raise SourceError(f"{self.root}/{error}") from None

    @functools.cached_property
    def _stems(self) -> dict[str, str]:
        """Paths of archives without endings, and of the folders where they lie, with a slash."""
        stems = map(without_endings, self._archives)
        return {stem: stem[: stem.rfind("/") + 1] for stem in stems}

    def _listed(self, file: str) -> list[str]:
        if file.endswith(".zip"):
            return [info.filename for info in self._zip(file).infolist() if not info.is_dir()]
        with self._tar(file) as archive:
            return [info.name for info in archive if not info.isdir()]

    def _zip(self, file: str) -> zipfile.ZipFile:
        """A zip that stays open: its members are read later, in several threads."""
        if file not in self._zips:
            with self._opened(contextlib.nullcontext, file) as _:
                self._zips[file] = zipfile.ZipFile(self.path(FileRef(file)))
        return self._zips[file]

    @contextlib.contextmanager
    def _opened(self, opener: Callable, file: str) -> Iterator[Any]:
        """An archive or a table; what goes wrong names it."""
        try:
            with opener(self.path(FileRef(file))) as opened:
                yield opened
        except (SourceError, ImageError, GeneratorExit):
            raise
        except Exception as error:  # every library has errors of its own
            pass_on_limits(error, self.root / file)
            raise ArchiveError(
                f"{self.root / file}: cannot be read ({error}); fetch it again"
            ) from error

    @contextlib.contextmanager
    def _tar(self, file: str) -> Iterator[tarfile.TarFile]:
        """A tar, read once from begin to end, in however many parts it lies."""
        parts = self.parts(FileRef(file, "its members"))
        with self._opened(lambda _: opened_tar(parts), file) as archive:
            yield archive


def _check_folder(path: Path, remedy: str) -> None:
    if not path.is_dir():
        what = "is a file, not a folder" if path.exists() else "no such folder"
        raise SourceError(f"{path}: {what}; {remedy}")


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # of a name that no file can have
        return False


def _leads_out(path: PurePosixPath) -> bool:
    return path.is_absolute() or ".." in path.parts


def _offset(archive: zipfile.ZipFile, ref: FileRef) -> int:
    info = archive.NameToInfo.get(ref.member)
    return info.header_offset if info else -1


def _common_end(path: str, expected: PurePosixPath) -> int:
    """How many parts two paths have in common, counted from their ends."""
    pairs = zip(reversed(PurePosixPath(path).parts), reversed(expected.parts), strict=False)
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))
