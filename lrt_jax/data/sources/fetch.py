"""Data sets that are elsewhere: on the Hugging Face Hub, or in a bucket of Google Cloud Storage.

Either is copied to a folder of this machine first. Files that are whole are not fetched again; what
there was of a file when the process ended is, since the Hub's client keeps no half files. What came
from the Hub and is whole stays at its commit, and is found again without the network.
"""

import contextlib
import fnmatch
import json
import logging
import re
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TextIO

from lrt_jax.data.sources import find_source
from lrt_jax.data.sources.errors import SourceError
from lrt_jax.data.sources.source import Source
from lrt_jax.storage.bucket import SCHEME, Bucket, Object, is_address
from lrt_jax.storage.disk import REFUSALS, expanded, first_line, write_atomically

logger = logging.getLogger(__name__)

HUB_ID = re.compile(r"(?P<id>\w[\w.-]*/\w[\w.-]*)(@(?P<revision>\S+))?")
WHOLE = ".fetched.json"  # beside what was fetched of the Hub: the commit, and each file's size
MARKS = ".fetched.jsonl"  # beside what was fetched of a bucket: a line for each whole file
NAMED = 3  # files in a message


def local_folder(source: str, input: str | Path | None, cache: str | Path) -> Path:
    """The folder of a data set on this machine, fetched first where it is elsewhere.

    What is fetched goes to a folder of its own in `cache`; the same call again takes what is there
    already, and goes on with the rest. What is fetched, how large it is, where it goes, and its
    licence are logged, a line each.

    Args:
      source: as `sources.find_source` takes it.
      input: a folder; `gs://bucket/prefix`; a data set of the Hub, `owner/name` or
        `owner/name@revision`; or None for the place where the source is published.
      cache: folder for what is fetched.

    Raises:
      SourceError: there is no such source, folder or data set, it cannot be reached, it does not
        fit on the disk, or the folder for it holds files of another version.
      BucketError: the bucket cannot be read.
      OSError: the disk refuses a write.
    """
    published = find_source(source)
    if input is None:
        if published.hub_id is None:
            raise SourceError(
                f"{source} cannot be fetched by itself: {published.by_hand or 'name its folder'}"
            )
        size = f", about {published.gigabytes:g} GB" if published.gigabytes else ""
        logger.info(f"{source}: {published.hub_id}, {published.licence or 'licence unknown'}{size}")
        return _from_hub(source, published, published.hub_id, Path(cache))
    text, path = str(input), Path(expanded(input))
    if is_address(text):
        return _from_bucket(text.rstrip("/"), Path(cache))
    if path.is_dir():
        return path
    if path.exists():
        raise SourceError(f"{path}: is a file; name the folder that holds it")
    if HUB_ID.fullmatch(text):
        return _from_hub(source, published, text, Path(cache))
    raise SourceError(
        f"{path}: no such folder; give the folder of the data set, a data set of the Hub as "
        "OWNER/NAME, or gs://BUCKET/FOLDER"
    )


def _log_plan(name: str, files: int, size: int, missing: int, target: Path) -> None:
    """Logs what will be fetched; raises SourceError where it does not fit."""
    what = f"{files} files, {_readable_size(size)}"
    if not missing:
        logger.info(f"{name}: {what}, all of them in {target} already")
        return
    target.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(target).free
    if missing > free:
        raise SourceError(
            f"{name}: {_readable_size(missing)} are to be fetched, but {target} has only "
            f"{_readable_size(free)} left; make space, or name another folder"
        )
    rest = "" if missing == size else f", {_readable_size(missing)} of it still missing"
    logger.info(f"{name}: fetching {what}{rest}, to {target}")


def refuse_others(
    target: Path, address: str, files: Collection[str], patterns: Sequence[str] = ("*",)
) -> None:
    """Refuses a folder with files of another version, which would be read with those of this one.

    Args:
      target: folder for what is fetched.
      address: where from.
      files: that there are now.
      patterns: files that the source reads.

    Raises:
      SourceError: there are some.
    """
    paths = (path.relative_to(target) for path in target.rglob("*") if path.is_file())
    seen = (p.as_posix() for p in paths if not any(part.startswith(".") for part in p.parts))
    others = sorted(
        name
        for name in seen
        if name not in files and any(fnmatch.fnmatchcase(name, p) for p in patterns)
    )
    if others:
        raise SourceError(
            f"{target}: holds {', '.join(others[:NAMED])}{', ...' if others[NAMED:] else ''}, "
            f"which {address} has no longer; move {'these' if others[1:] else 'it'} away, or "
            "remove the folder to fetch all of it anew"
        )


def _readable_size(size: int) -> str:
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size} bytes"


def _folder_name(address: str) -> str:
    return re.sub(r"[/\\:]+", "--", address)


# ---------------------------------------------------------------------------- the Hub


def _from_hub(source: str, published: Source, address: str, cache: Path) -> Path:
    from huggingface_hub import HfApi, snapshot_download

    match, target = HUB_ID.fullmatch(address), cache / _folder_name(address)
    patterns = list(published.patterns)
    if commit := _commit_there(target, patterns):
        logger.info(
            f"{address}: all of it in {target} already, at commit {commit}; to fetch the newest, "
            f"remove that folder, or name a commit: {match['id']}@COMMIT"
        )
        return target
    with _hub_errors(address):
        sha = HfApi().dataset_info(match["id"], revision=match["revision"]).sha
        what = {
            "repo_id": match["id"],
            "repo_type": "dataset",
            "revision": sha,
            "local_dir": target,
            "allow_patterns": patterns,
        }
        files = snapshot_download(**what, dry_run=True)
        if not files:
            raise SourceError(
                f"{address}: none of its files is {' or '.join(patterns)}, as {source} has them; "
                "is it another data set?"
            )
        sizes = {file.filename: file.file_size for file in files}
        refuse_others(target, address, sizes, patterns)
        missing = sum(file.file_size for file in files if file.will_download)
        _log_plan(address, len(files), sum(sizes.values()), missing, target)
        (target / WHOLE).unlink(missing_ok=True)  # until it is whole again
        snapshot_download(**what)
    record = {"commit": sha, "patterns": patterns, "sizes": sizes}
    write_atomically(target / WHOLE, json.dumps(record).encode())
    return target


def _commit_there(target: Path, patterns: Sequence[str]) -> str | None:
    """The commit of what was fetched, where all of it is there."""
    try:
        record = json.loads((target / WHOLE).read_bytes())
        sizes, same = record["sizes"], record["patterns"] == list(patterns)
        there = all(_has_size(target / name, size) for name, size in sizes.items())
        return record["commit"] if there and same else None
    except (FileNotFoundError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None  # then the Hub says what is missing


@contextlib.contextmanager
def _hub_errors(address: str) -> Iterator[None]:
    """Says what the Hub's client says in a line, with the remedy."""
    from huggingface_hub import errors

    name, _, revision = address.partition("@")
    try:
        yield
    except SourceError:
        raise
    except errors.GatedRepoError:
        _fail(address, f"is gated: accept its terms at {_page(name)}, then run: hf auth login")
    except errors.RevisionNotFoundError:
        _fail(address, f"the data set has no revision {revision!r}; see {_page(name)}")
    except errors.RepositoryNotFoundError:
        _fail(
            address,
            "neither a folder here nor a data set of the Hub; mend the name, or run hf auth login "
            "where the data set is private",
        )
    except errors.OfflineModeIsEnabled:
        _fail(
            address,
            "HF_HUB_OFFLINE is set, so it cannot be fetched; unset it, or name the folder of a "
            f"copy, made with: hf download {name} --repo-type dataset --local-dir FOLDER",
        )
    except Exception as error:  # of the libraries below: sockets, certificates, proxies
        if isinstance(error, OSError) and error.errno in REFUSALS:
            raise
        _fail(
            address,
            f"cannot be fetched ({first_line(error)}); give the same command again: files that "
            "are whole stay",
        )


def _page(name: str) -> str:
    return f"https://huggingface.co/datasets/{name}"


def _fail(address: str, what: str) -> None:
    raise SourceError(f"{address}: {what}") from None


# ---------------------------------------------------------------------------- buckets


def _from_bucket(address: str, cache: Path) -> Path:
    bucket = Bucket(address)
    target = cache / _folder_name(address.removeprefix(SCHEME))
    files = bucket.files()
    if not files:
        raise SourceError(f"{address}: no files there; mend the address")
    refuse_others(target, address, files)
    fetched = _marks(target)
    missing = {
        name: file
        for name, file in files.items()
        if file.version is None
        or fetched.get(name) != file.version
        or not _has_size(target / name, file.size)
    }
    _log_plan(address, len(files), _size(files), _size(missing), target)
    if missing:
        with (target / MARKS).open("a", encoding="utf-8") as marks:
            bucket.fetch(missing, target, lambda name: _mark(marks, name, files[name].version))
    return target


def _size(files: Mapping[str, Object]) -> int:
    return sum(file.size for file in files.values())


def _mark(marks: TextIO, name: str, version: str | None) -> None:
    marks.write(json.dumps({name: version}) + "\n")
    marks.flush()


def _marks(target: Path) -> dict[str, str]:
    """The version that each file had when it was fetched."""
    try:
        lines = (target / MARKS).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return {}
    marks: dict[str, str] = {}
    for line in lines:
        # A line that is cut off, or another: that file is fetched again.
        with contextlib.suppress(ValueError, TypeError, RecursionError):
            marks.update(json.loads(line))
    return marks


def _has_size(path: Path, size: int) -> bool:
    return path.is_file() and path.stat().st_size == size
