"""Data sets that are elsewhere: on the Hugging Face Hub, or in a bucket of Google Cloud Storage.

Either is copied to a folder of this machine first. Files that are whole are not fetched again; what
there was of a file when the process ended is, since the Hub's client keeps no half files.
"""

import concurrent.futures
import contextlib
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from tqdm import tqdm

from lrt_jax.data.sources.files import SourceError
from lrt_jax.data.sources.published import PUBLISHED
from lrt_jax.disk import REFUSALS

HUB_ID = re.compile(r"(?P<id>\w[\w.-]*/\w[\w.-]*)(@(?P<revision>\S+))?")
BUCKET = "gs://"
COPIES = 8  # files at a time
LONGEST = 200  # characters of what another library says

Say = Callable[[str], None]


def local_folder(source: str, input: str | Path | None, cache: str | Path, say: Say) -> Path:
    """The folder of a data set on this machine, fetched first where it is elsewhere.

    What is fetched goes to a folder of its own in `cache`; the same call again takes what is there
    already, and goes on with the rest.

    Args:
      source: a name in `sources.SOURCES`.
      input: a folder; `gs://bucket/prefix`; a data set of the Hub, `owner/name` or
        `owner/name@revision`; or None for the place where the source is published.
      cache: folder for what is fetched.
      say: told, in a line each, what is fetched, how large it is, where it goes, and its licence.

    Raises:
      SourceError: there is no such folder, bucket or data set, it cannot be reached, or it does not
        fit on the disk.
      OSError: the disk refuses a write.
    """
    if input is None:
        published = PUBLISHED[source]
        if published.hub_id is None:
            raise SourceError(f"{source} cannot be fetched by itself: {published.by_hand}")
        say(f"{source}: {published.hub_id}, {published.licence}, about {published.gigabytes:g} GB")
        return _from_hub(source, published.hub_id, Path(cache), say)
    text, path = str(input), Path(input).expanduser()
    if text.startswith(BUCKET):
        return _from_bucket(text.rstrip("/"), Path(cache), say)
    if path.is_dir():
        return path
    if path.exists():
        raise SourceError(f"{path}: is a file; give the folder of the data set")
    if HUB_ID.fullmatch(text):
        return _from_hub(source, text, Path(cache), say)
    raise SourceError(
        f"{path}: no such folder; give the folder of the data set, a data set of the Hub as "
        "OWNER/NAME, or gs://BUCKET/FOLDER"
    )


def _say_what(say: Say, name: str, files: int, size: int, missing: int, target: Path) -> None:
    """Says what will be fetched.

    Raises:
      SourceError: it does not fit.
    """
    if not missing:
        say(f"{name}: {files} files, {_readable_size(size)}, all of them in {target} already")
        return
    target.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(target).free
    if missing > free:
        raise SourceError(
            f"{name}: {_readable_size(missing)} are to be fetched, but {target} has only "
            f"{_readable_size(free)} left; make space, or name another folder"
        )
    rest = "" if missing == size else f", {_readable_size(missing)} of it still missing"
    say(f"{name}: fetching {files} files, {_readable_size(size)}{rest}, to {target}")


def _readable_size(size: int) -> str:
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size} bytes"


def _folder_name(address: str) -> str:
    return re.sub(r"[/\\:]+", "--", address)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:LONGEST]


# ---------------------------------------------------------------------------- the Hub


def _from_hub(source: str, address: str, cache: Path, say: Say) -> Path:
    from huggingface_hub import HfApi, snapshot_download

    match, target = HUB_ID.fullmatch(address), cache / _folder_name(address)
    patterns = list(PUBLISHED[source].patterns)
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
        sizes = [(file.file_size, file.will_download) for file in files]
        missing = sum(size for size, wanted in sizes if wanted)
        _say_what(say, address, len(files), sum(size for size, _ in sizes), missing, target)
        snapshot_download(**what)
    return target


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
            f"cannot be fetched ({_first_line(error)}); give the same command again: files that "
            "are whole stay",
        )


def _page(name: str) -> str:
    return f"https://huggingface.co/datasets/{name}"


def _fail(address: str, what: str) -> None:
    raise SourceError(f"{address}: {what}") from None


# ---------------------------------------------------------------------------- buckets


def _from_bucket(address: str, cache: Path, say: Say) -> Path:
    try:  # the plain JSON API: the package's default asks over gRPC first for the bucket's kind
        from gcsfs.core import GCSFileSystem
    except ImportError:
        raise SourceError(
            f"{address}: reading gs:// needs gcsfs: pip install 'lrt_jax[gcs]'"
        ) from None
    target = cache / _folder_name(address.removeprefix(BUCKET))
    with _bucket_errors(address):
        storage = GCSFileSystem(skip_instance_cache=True)  # lists anew
        files = _sizes(storage, address.removeprefix(BUCKET))
        if not files:
            raise SourceError(f"{address}: no files there; mend the address")
        missing = {name: size for name, size in files.items() if not _whole(target / name, size)}
        rest = sum(missing.values())
        _say_what(say, address, len(files), sum(files.values()), rest, target)
        _copy(storage, address.removeprefix(BUCKET), missing, target)
    return target


def _sizes(storage: Any, prefix: str) -> dict[str, int]:
    """Bytes of all files of a folder in a bucket, by their paths in it."""
    found = storage.find(prefix, detail=True).items()
    sizes = {name.removeprefix(f"{prefix}/"): x["size"] for name, x in found if name != prefix}
    for name in sizes:
        if ".." in PurePosixPath(name).parts or PurePosixPath(name).is_absolute():
            raise SourceError(f"{BUCKET}{prefix}/{name}: leads out of the folder; rename it")
    return {name: int(size) for name, size in sizes.items() if not name.endswith("/")}


def _whole(path: Path, size: int) -> bool:
    return path.is_file() and path.stat().st_size == size


def _copy(storage: Any, prefix: str, files: Mapping[str, int], target: Path) -> None:
    """Copies files several at a time; each has its name once it is whole."""
    from fsspec.callbacks import Callback

    with (
        tqdm(total=sum(files.values()), unit="B", unit_scale=True, desc="fetching", delay=3) as bar,
        concurrent.futures.ThreadPoolExecutor(COPIES) as pool,
    ):

        class Progress(Callback):
            def relative_update(self, inc=1):
                bar.update(inc)

        def copy(name: str) -> None:
            path = target / name
            part = path.with_name(f".{path.name}.part")
            path.parent.mkdir(parents=True, exist_ok=True)
            storage.get_file(f"{prefix}/{name}", str(part), callback=Progress())
            if part.stat().st_size != files[name]:
                raise SourceError(f"{BUCKET}{prefix}/{name}: it changed; give the command again")
            os.replace(part, path)

        copies = [pool.submit(copy, name) for name in files]
        try:
            for done in concurrent.futures.as_completed(copies):
                done.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


@contextlib.contextmanager
def _bucket_errors(address: str) -> Iterator[None]:
    try:
        yield
    except SourceError:
        raise
    except Exception as error:  # of gcsfs and of what it stands on
        if isinstance(error, OSError) and error.errno in REFUSALS:
            raise
        raise SourceError(
            f"{address}: cannot be fetched ({_first_line(error)}); see that it is there and that "
            "this machine may read it (gcloud auth application-default login), and give the same "
            "command again: files that are whole stay"
        ) from None
