"""A file system of a few kilobytes, to fill up."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


class SmallDisk:
    """A mounted file system whose size and mode can be changed."""

    def __init__(self, folder: Path):
        self.folder = folder

    def remount(self, options: str) -> None:
        """Changes options of mount(8), such as `size=8m` or `ro`."""
        _mount("-o", f"remount,{options}", str(self.folder))


@contextmanager
def mounted(folder: Path, size: str) -> Iterator[SmallDisk]:
    """Mounts one at a folder; skips the test where this user may not."""
    folder.mkdir()
    try:
        _mount("-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder))
    except (FileNotFoundError, subprocess.CalledProcessError) as error:
        said = getattr(error, "stderr", "") or str(error)
        pytest.skip(f"a small file system cannot be mounted here: {said.strip()}")
    try:
        yield SmallDisk(folder)
    finally:
        # Lazily: a file that could not be flushed is still open.
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def _mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True, capture_output=True, text=True)
