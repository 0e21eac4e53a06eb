"""Every image of a data set is opened once, and what is found is kept in a log.

A build that is started again reads the log and looks only at what it lacks, or what has changed.
"""

import dataclasses
import hashlib
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import PIL
from jaxtyping import UInt8, UInt64
from tqdm import tqdm

from lrt_jax.data import images
from lrt_jax.data.preparation.near_duplicates import THUMB, thumbnail
from lrt_jax.data.schema import FileRef
from lrt_jax.data.sources import InputFolder
from lrt_jax.parallel.threads import in_threads
from lrt_jax.storage.disk import read_plainly, write_atomically

REMEDY = "remove it, and all images are looked at again"
_HEAD = f"log 4, Pillow {PIL.__version__}, of "  # and a digest of what was asked for
MISSING = "missing"  # in place of the digest of a file that is not there


@dataclasses.dataclass(frozen=True)
class ImageFacts:
    """What the build keeps of an image; `reason` says why it cannot be used, or is empty."""

    ref: FileRef  # where the image lies
    digest: str  # sha256 of the file, hexadecimal; or why there is none
    size: int = 0  # in bytes
    height: int = 0  # in pixels, after the EXIF orientation is applied
    width: int = 0  # likewise
    phash: int = 0  # perceptual hash, 64 bits
    thumb: str = ""  # 8x8 mean colours, hexadecimal
    changes: tuple[str, ...] = ()  # what decoding changes, see `images.open_rgb`
    reason: str = ""  # a few words that are the same for all images of a kind
    detail: str = ""  # more about this one


def hashes(facts: Sequence[ImageFacts]) -> UInt64[np.ndarray, " n"]:
    """Perceptual hashes of images."""
    return np.array([fact.phash for fact in facts], np.uint64)


def thumbs(facts: Sequence[ImageFacts]) -> UInt8[np.ndarray, "n 8 8 3"]:
    """Thumbnails of images."""
    data = bytes.fromhex("".join(fact.thumb for fact in facts))
    return np.frombuffer(data, np.uint8).reshape(-1, THUMB, THUMB, 3)


def inspect(ref: FileRef, load: Callable[[], bytes]) -> ImageFacts:
    """Reads and decodes one image; never raises for a bad one."""
    try:
        data = load()
    except images.ImageError as error:
        return ImageFacts(ref, MISSING, reason=error.reason, detail=error.detail)
    digest = hashlib.sha256(data).hexdigest()
    try:
        image, changes = images.open_rgb(data, str(ref))
        images.check_sides(*images.sides(image), str(ref))
    except images.ImageError as error:
        return ImageFacts(ref, digest, len(data), reason=error.reason, detail=error.detail)
    return ImageFacts(
        ref=ref,
        digest=digest,
        size=len(data),
        height=image.height,
        width=image.width,
        phash=images.perceptual_hash(image),
        thumb=thumbnail(image).tobytes().hex(),
        changes=changes,
    )


def inspect_all(
    folder: InputFolder, refs: Iterable[FileRef], log: Path
) -> dict[FileRef, ImageFacts]:
    """Facts of all images, in the order in which their containers are best read.

    Args:
      folder: with the data set.
      refs: of the images.
      log: file to which facts are added as they are found, and from which they are taken where the
        file, or its container, is as it was.
    """
    refs = list(dict.fromkeys(refs))
    stamps, facts = _Stamps(folder), read_log(log, refs, folder)
    rest = [ref for ref in refs if ref not in facts]
    _write_log(log, refs, facts.values(), stamps)  # without what was cut off, or has changed
    found = in_threads(inspect, folder.loads(rest))
    with log.open("a", encoding="utf-8") as file:
        for fact in tqdm(found, "decoding", len(rest), unit="image", delay=3, leave=False):
            facts[fact.ref] = fact
            file.write(_line(fact, stamps))
            file.flush()
    return _in_order(refs, facts)


def _in_order(
    refs: Sequence[FileRef], facts: Mapping[FileRef, ImageFacts]
) -> dict[FileRef, ImageFacts]:
    """Loose files as they were asked for, containers as they first occur, each as it was read."""
    loose = [ref for ref in refs if not ref.member]
    by_container: dict[str, list[FileRef]] = {ref.file if ref.member else "": [] for ref in refs}
    for ref in facts:
        if ref.member:
            by_container[ref.file].append(ref)
    ordered = (found if name else loose for name, found in by_container.items())
    return {ref: facts[ref] for ref in itertools.chain.from_iterable(ordered)}


class _Stamps(dict[FileRef, list[int]]):
    """Size and time of a file or container, by what tells that it is still the same."""

    def __init__(self, folder: InputFolder):
        super().__init__()
        self._folder = folder
        self._by_file: dict[str, list[int]] = {}

    def __missing__(self, ref: FileRef) -> list[int]:
        if ref.file not in self._by_file:
            try:
                parts = [path.stat() for path in self._folder.parts(ref)]
                stamp = [number for x in parts for number in (x.st_size, x.st_mtime_ns)]
                self._by_file[ref.file] = stamp
            except (OSError, ValueError):  # ValueError: of a name that leads to no file of the set
                self._by_file[ref.file] = []
        return self._by_file[ref.file]


def read_log(log: Path, refs: Iterable[FileRef], folder: InputFolder) -> dict[FileRef, ImageFacts]:
    """Facts of images from a log; none at all where a file changed, or an image was unreadable.

    None, so that images are in the order of a build from nothing. Where other images were asked for
    than the log has, those of loose files alone: the order of the others is that of their archives.
    """
    found = {}
    with read_plainly(log, REMEDY):
        asked_for, lines = _read(log)
        for fact, is_same in _logged(lines, refs, folder):
            if not is_same or fact.reason == images.UNREADABLE:
                return {}
            found[fact.ref] = fact
    if not found or asked_for == _asked_digest(refs):
        return found
    return {ref: found[ref] for ref in refs if ref in found and not ref.member}


def unchanged(log: Path, refs: Iterable[FileRef], folder: InputFolder) -> dict[FileRef, ImageFacts]:
    """What a log says of images that are as they were."""
    with read_plainly(log, REMEDY):
        _, lines = _read(log)
        return {fact.ref: fact for fact, is_same in _logged(lines, refs, folder) if is_same}


def _read(log: Path) -> tuple[str, list[str]]:
    """Digest of the images that a log was begun for, and its lines; nothing of other software's.

    A line that was cut off counts as not written.
    """
    lines = log.read_text(encoding="utf-8").splitlines(keepends=True) if log.is_file() else []
    if not lines or not lines[0].startswith(_HEAD):
        return "", []
    whole = itertools.takewhile(lambda line: line.endswith("\n"), lines[1:])
    return lines[0].removeprefix(_HEAD).strip(), list(whole)


def _logged(
    lines: Iterable[str], refs: Iterable[FileRef], folder: InputFolder
) -> Iterator[tuple[ImageFacts, bool]]:
    """Facts of a log's lines, and whether the image is still the same."""
    stamps, wanted = _Stamps(folder), set(refs)
    for line in lines:
        fields = json.loads(line)
        stamp, ref = fields.pop("stamp"), FileRef(**fields.pop("ref"))
        if ref in wanted:
            fields["changes"] = tuple(fields["changes"])
            yield ImageFacts(ref=ref, **fields), stamp == stamps[ref]


def _write_log(
    log: Path, refs: Sequence[FileRef], facts: Iterable[ImageFacts], stamps: _Stamps
) -> None:
    lines = "".join(_line(fact, stamps) for fact in facts)
    write_atomically(log, f"{_HEAD}{_asked_digest(refs)}\n{lines}".encode())


def _asked_digest(refs: Iterable[FileRef]) -> str:
    digest = hashlib.sha256()
    for ref in refs:
        digest.update(f"{ref}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _line(fact: ImageFacts, stamps: _Stamps) -> str:
    return json.dumps(dataclasses.asdict(fact) | {"stamp": stamps[fact.ref]}) + "\n"
