"""The list of a written model's files: only files that are listed and unchanged are replaced."""

import json
from collections.abc import Mapping
from pathlib import Path

from etils import epath

from lrt_jax import __version__
from lrt_jax.storage.bucket import Bucket, digest, explain_refusals, is_address
from lrt_jax.storage.disk import read_json

LIST = "lrt_jax_files.json"
# What says of a folder in a bucket that it is whole: without it nobody opens a model.
MARK = "config.json"
REMEDY = "take another folder, or move that away"


def record_files(folder: Path) -> None:
    """Writes the list of a folder's files, once all are there."""
    (folder / LIST).unlink(missing_ok=True)
    files = {path.name: digest(path) for path in sorted(folder.iterdir())}
    content = {"lrt_jax": __version__, "md5": files}
    (folder / LIST).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def check_replaceable(folder: epath.PathLike) -> list[str]:
    """Only what `record_files` has listed may be replaced, and only as it was written.

    Args:
      folder: on this machine or in a bucket; it need not be there.

    Returns:
      Names of the files in it, which may be removed.

    Raises:
      FileExistsError: the folder holds a file that no export wrote, or that was changed since.
      BucketError: the bucket cannot be read.
    """
    folder = epath.Path(folder)
    with explain_refusals(folder, "read"):
        return _replaceable(folder)


def _replaceable(folder: epath.Path) -> list[str]:
    if folder.is_file():
        raise FileExistsError(f"{folder}: is a file; take another folder")
    found = _digests(folder)
    if not found:
        return []
    if LIST not in found:
        raise FileExistsError(
            f"{folder}: holds {min(found)} and no {LIST}, in which an export lists its files; "
            f"{REMEDY}"
        )
    listed = _listed(folder / LIST)
    for name in sorted(found.keys() - {LIST}):
        if name not in listed:
            raise FileExistsError(f"{folder}: {name} is of no export; {REMEDY}")
        if listed[name] != _digest(folder, name, found):
            raise FileExistsError(f"{folder}: {name} was changed since its export; {REMEDY}")
    return sorted(found)


def replace_in_bucket(bucket: Bucket, folder: Path) -> None:
    """Puts a written model in the place of an older one, if any.

    Args:
      bucket: to write to.
      folder: of the model, on this machine.

    Raises:
      FileExistsError: see `check_replaceable`.
      BucketError: it cannot be written; where nothing may be, nothing has changed.
    """
    old = check_replaceable(bucket.address)
    bucket.replace(folder, old, first=LIST, mark=MARK)


def _digests(folder: epath.Path) -> dict[str, str | None]:
    """What lies in a folder, with the digests that a bucket knows."""
    if is_address(folder):
        return {name: file.version for name, file in Bucket(str(folder)).files().items()}
    return dict.fromkeys(path.name for path in folder.iterdir()) if folder.exists() else {}


def _digest(folder: epath.Path, name: str, found: Mapping[str, str | None]) -> str | None:
    path = folder / name
    if is_address(folder) or not path.is_file():
        return found[name]
    return digest(Path(path))


def _listed(path: epath.Path) -> Mapping[str, str]:
    content = read_json(path)
    files = content.get("md5") if isinstance(content, dict) else None
    if not isinstance(files, dict):
        raise FileExistsError(f"{path}: not a list that an export wrote; {REMEDY}")
    return files
