"""A run's folder: on a disk that all processes see, or in a bucket, with a copy on each machine."""

import dataclasses
import logging
import os
import re
import tempfile
from collections.abc import Collection, Mapping
from pathlib import Path, PurePosixPath

from etils import epath

from lrt_jax.parallel import processes
from lrt_jax.storage.bucket import SCHEME, Bucket, Object, digest, is_address
from lrt_jax.storage.disk import cache_folder, explain

logger = logging.getLogger(__name__)

CHECKPOINTS, EXPORT = "checkpoints", "export"
# Of a workdir: Orbax writes checkpoints to the bucket itself, and a download is had again.
NEVER = (CHECKPOINTS, "downloads")
ONLY_SENT = EXPORT  # no run reads the model that it exports
FOR_THE_FIRST = ("completions", "scenes", "tensorboard", "profile", "curves.png", "metrics.jsonl")
# Folders that appear whole on a disk, by the first word of their names, and the file that says of
# one in a bucket that it is whole.
MARKS = {"data": "build_report.json", "scenes": "scenes.json"}
# Orbax looks for its files by patterns, so that `[` finds none of them and `*` those of others;
# tensorstore takes a backslash for a slash, and writes to another folder.
NOT_IN_PATHS = re.compile(r"[\[*?\\]")


@dataclasses.dataclass(frozen=True)
class LocalWorkdir:
    """A workdir on a disk that all processes see: what `MirroredWorkdir` is for one in a bucket.

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

    def barrier(self, name: str, patience: float = processes.BARRIER_TIMEOUT) -> None:
        """Waits until all processes have come here, see `processes.barrier`."""
        processes.barrier(name, patience)


@dataclasses.dataclass
class MirroredWorkdir:
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
    _versions: dict[str, str | None] = dataclasses.field(default_factory=dict)  # as pulled

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
        with explain(self.folder):
            for name in here.keys() - there.keys() - kept:
                self._remove(self.folder / name)
            changed = {name: x for name, x in there.items() if not self._has(name, x, here)}
            self.bucket.fetch(changed, self.folder)
        self._alike = {name: x for name, x in self._files().items() if name not in kept}
        self._versions = {name: x.version for name, x in there.items()}

    def _has(self, name: str, there: Object, here: Mapping[str, tuple[int, int]]) -> bool:
        """Whether the copy has what the bucket has; what neither side has touched is not read."""
        untouched = name in here and here[name] == self._alike.get(name)
        if untouched and there.version is not None and there.version == self._versions.get(name):
            return True
        path = self.folder / name
        same_size = path.is_file() and path.stat().st_size == there.size
        return same_size and digest(path) == there.version

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

    def barrier(self, name: str, patience: float = processes.WORK_TIMEOUT) -> None:
        """Waits until all processes have come here, and see what the first has written.

        Args:
          name: of the barrier, for people.
          patience: seconds to wait for the last; the first may have much to put there.
        """
        if processes.is_first():
            self.push()
        processes.barrier(name, patience)
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


Workdir = LocalWorkdir | MirroredWorkdir  # of a run: where it lives


def open_workdir(path: epath.Path) -> Workdir:
    """Where to work: the workdir itself, or a copy of one that is in a bucket, which is logged.

    Args:
      path: on this machine, or in a bucket (`gs://`).

    Raises:
      ValueError: it is not a folder, checkpoints cannot be kept there, or gcsfs is not installed.
      OSError: it cannot be written to, or not all processes see it.
    """
    check_path(path)
    if not is_address(path):
        return LocalWorkdir(make_workdir(Path(path)))
    name = os.fspath(path).removeprefix(SCHEME)
    folder = cache_folder("workdirs") / name / f"process-{processes.index()}"
    with explain(folder):
        folder.mkdir(parents=True, exist_ok=True)
    logger.info(f"{path}: worked on in {folder}")
    return MirroredWorkdir(Bucket(os.fspath(path)), folder)


def check_path(path: epath.PathLike) -> None:
    """Refuses the path of a workdir under which checkpoints would not be written whole.

    Raises:
      ValueError: with the characters that are in the way.
    """
    if found := sorted(set(NOT_IN_PATHS.findall(os.fspath(path)))):
        raise ValueError(
            f"{os.fspath(path)}: no checkpoint can be kept in a folder with {' or '.join(found)} "
            "in its path; take another name, such as run-1 for run[1]"
        )


def step_file(folder: epath.Path | Path, step: int, ending: str) -> epath.Path | Path:
    """Where a run keeps what belongs to a step: `step-000012.ENDING` of a folder."""
    return folder / f"{step_name(step)}.{ending}"


def step_name(step: int) -> str:
    """`step-000012`."""
    return f"step-{step:06}"


def step_of(name: str) -> int | None:
    """The step whose `step_name` this is; None where it is no such name."""
    digits = name.removeprefix("step-")
    is_one = digits.isascii() and digits.isdigit() and name == step_name(int(digits))
    return int(digits) if is_one else None


def step_files(folder: epath.Path | Path, ending: str) -> dict[int, epath.Path | Path]:
    """The files of `step_file` that there are, by their steps, in order.

    Whatever else people put beside them is not the run's.
    """
    paths = folder.iterdir() if folder.is_dir() else ()
    steps = {step_of(path.stem): path for path in paths if path.suffix == f".{ending}"}
    return {step: steps[step] for step in sorted(steps.keys() - {None})}


def make_workdir(workdir: Path) -> Path:
    """Makes a workdir on this machine where it is missing.

    Raises:
      ValueError: it is not a folder.
      OSError: it cannot be written to, or not all processes see it.
    """
    if workdir.exists() and not workdir.is_dir():
        raise ValueError(f"--workdir={workdir}: name a folder")
    with explain(workdir):
        workdir.mkdir(parents=True, exist_ok=True)
    with explain(workdir), tempfile.TemporaryFile(dir=workdir):
        pass
    processes.check_shared(workdir)
    return workdir
