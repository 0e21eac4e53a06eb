"""Archives among the files of a data set: which there are, in which parts, and tars read whole."""

import bz2
import contextlib
import gzip
import io
import lzma
import re
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from lrt_jax.data.sources.errors import SourceError
from lrt_jax.data.sources.limits import HEADER_BYTES, unpacked_bytes

TAR = r"tgz|tar\.(?:gz|bz2|xz)|tar"
# What `split` appends: numbers, or aa, ab, ..., or aaa, aab, ...; but not what other tools append.
PART = r"\.(?:part)?[-_.]?(?P<part>\d{1,5}|(?!asc|[gxbl]z|br|md|ok)a?[a-z]{2})"
PACKED = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ": lzma.open}  # by first bytes
LONG_HEADERS = (  # types of a tar's members that are read whole as they are met
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
)
ARCHIVES = re.compile(rf"\.(?:zip|(?:{TAR})(?:{PART})?)$")


def without_endings(name: str) -> str:
    """The path of an archive, or of a part of one: that of the folder that it unpacks to."""
    return ARCHIVES.sub("", name)


def archives(names: Iterable[str]) -> dict[str, list[str]]:
    """The archives among some files, by the name of the first part; most have just the one.

    Returns:
      The parts of each, in the order in which they are read.

    Raises:
      SourceError: a part is missing, or an archive lies there both whole and in parts.
    """
    whole: dict[str, dict[str, str]] = {}
    for name in names:
        if match := ARCHIVES.search(name):
            part = match["part"] or ""
            stem = name[: match.start("part")].rstrip("-_.") if part else name
            whole.setdefault(stem.removesuffix(".part"), {})[name] = part
    ordered = (_in_order(stem, parts) for stem, parts in whole.items())
    return {parts[0]: parts for parts in ordered}


def _in_order(stem: str, parts: dict[str, str]) -> list[str]:
    """Names of the parts as they follow one another: part10 comes after part9."""
    if list(parts.values()) == [""]:
        return list(parts)
    if stem in parts:
        other = next(name for name in parts if name != stem)
        raise SourceError(f"{stem}: lies there whole and in parts ({other}); remove one of the two")
    ordered = sorted(parts, key=lambda name: _number(parts[name]))
    numbers = [_number(parts[name]) for name in ordered]
    first = min(numbers[0], 1) if parts[ordered[0]].isdigit() else 0  # both 00 and 01 come first
    for i, (name, number) in enumerate(zip(ordered, numbers, strict=True), start=first):
        if number != i:
            raise SourceError(
                f"{name}: the part before it is missing, or is there twice; {stem} is in "
                f"{len(parts)} parts here: fetch the others again"
            )
    return ordered


def _number(part: str) -> int:
    """The index of a part: 7 of 07; 27 of bb, and of abb."""
    if part.isdigit():
        return int(part)
    number = 0
    for letter in part:
        number = 26 * number + ord(letter) - ord("a")
    return number


@contextlib.contextmanager
def opened_tar(parts: Sequence[Path]) -> Iterator[tarfile.TarFile]:
    """A tar, to be read once from begin to end, in however many parts it lies.

    Raises:
      tarfile.TarError: it is none, it ends early, or it unpacks to more than `unpacked_bytes` of
        its size; also while it is read. So do the errors of gzip, bz2 and lzma.
    """
    size = sum(part.stat().st_size for part in parts)
    with (
        contextlib.closing(_Joined(parts)) as packed,
        _unpacked(io.BufferedReader(packed)) as stream,
        tarfile.open(
            fileobj=_Bounded(stream, unpacked_bytes(size)), mode="r|", tarinfo=_Member
        ) as archive,
    ):
        yield archive


def _unpacked(packed: io.BufferedReader) -> BinaryIO:
    """The bytes of a tar, whichever way they are packed."""
    begin = packed.peek(8)
    opener = next((PACKED[first] for first in PACKED if begin.startswith(first)), None)
    return opener(packed) if opener else packed


class _Bounded:
    """A stream of at most so many bytes."""

    def __init__(self, stream: BinaryIO, most: int):
        self._stream, self._most, self._left = stream, most, most

    def read(self, size: int) -> bytes:
        data = self._stream.read(size)
        self._left -= len(data)
        if self._left < 0:
            raise tarfile.ReadError(
                f"it unpacks to more than {self._most:,} bytes, which no images do; unpack it "
                "yourself if you trust it"
            )
        return data


class _Member(tarfile.TarInfo):
    """A member whose header is there, sound and of bounded size, or the archive's proper end.

    TarFile itself takes a file that stops after any member for one that ends there.
    """

    @classmethod
    def frombuf(cls, buf: bytes, encoding: str, errors: str) -> tarfile.TarInfo:
        info = super().frombuf(buf, encoding, errors)
        if info.type in LONG_HEADERS and info.size > HEADER_BYTES:
            raise tarfile.InvalidHeaderError(
                f"a member's name or extended header has {info.size:,} bytes; at most "
                f"{HEADER_BYTES:,} are read"
            )
        return info

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> tarfile.TarInfo:
        try:
            return super().fromtarfile(archive)
        except tarfile.EOFHeaderError:  # the block that ends an archive
            raise
        except tarfile.EmptyHeaderError:
            raise tarfile.ReadError("it is cut off: the block that ends a tar is missing") from None
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(str(error)) from None


class _Joined(io.RawIOBase):
    """Files read one after another as one."""

    def __init__(self, parts: Sequence[Path]):
        self._rest = iter(parts)
        self._file: BinaryIO = next(self._rest).open("rb")

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
