"""Files that benchmarks write their figures to."""

from pathlib import Path


def check_new(path: str) -> None:
    """Refuses a file of `--json` that would be overwritten or could not be, before any work.

    Args:
      path: of the flag; empty for no file.

    Raises:
      FileExistsError: it is there already.
      FileNotFoundError: there is no folder to write it in.
    """
    file = Path(path)
    if path and file.exists():
        raise FileExistsError(f"--json={path}: is there; name another file, or remove it")
    if path and not file.parent.is_dir():
        raise FileNotFoundError(f"--json={path}: there is no folder {file.parent}; make it")
