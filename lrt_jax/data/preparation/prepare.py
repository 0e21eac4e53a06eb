"""Prepares a downloaded data set: two tables of records, and a report of what went in and out.

Every image is decoded once, so that a bad file is found here and not in the middle of a run; images
that are equal or look the same are stored once; votes for the same two images of a caption are
added up; captions are split whole, and what is near a test set is left out of training.
"""

import contextlib
import dataclasses
import hashlib
import json
import logging
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from tqdm import tqdm

from lrt_jax.config.choices import NearDuplicates, OnBadInput
from lrt_jax.data import images
from lrt_jax.data.dataset import prepared_set
from lrt_jax.data.dataset.set_files import Files, recorded_files
from lrt_jax.data.preparation.decontamination import (
    TestSet,
    decontaminate,
    open_test_sets,
    own_sets,
    unchecked,
)
from lrt_jax.data.preparation.image_scan import (
    MISSING,
    ImageFacts,
    hashes,
    inspect_all,
    thumbs,
    unchanged,
)
from lrt_jax.data.preparation.merge import Plan, check_fractions, make_plan
from lrt_jax.data.preparation.report import BuildReport, input_digest, make_report, records_digest
from lrt_jax.data.preparation.report_page import page
from lrt_jax.data.preparation.writing import BEGUN, verify, write_tables
from lrt_jax.data.schema import FileRef
from lrt_jax.data.sources import InputFolder, SourceData, find_source, read_source
from lrt_jax.data.sources.fetch import local_folder
from lrt_jax.parallel.threads import in_threads
from lrt_jax.storage.disk import LOCK, behind_link, explain, give_name, locked

logger = logging.getLogger(__name__)

SHOWN_IMAGES = 10  # bad images that an error names
DOWNLOADS = "downloads"


def prepare(
    source: str,
    input: str | Path | None,
    output: str | Path,
    *,
    downloads: str | Path | None = None,
    image_root: str | Path | None = None,
    split_fractions: Mapping[str, float] | None = None,
    seed: int = 0,
    on_bad_example: OnBadInput = "error",
    near_duplicates: NearDuplicates = "merge",
    criterion: str = "",
    test_sets: Sequence[str | Path] = (),
) -> BuildReport:
    """Makes a prepared set of a downloaded data set, or finds it already made.

    The output appears whole or not at all, and the same input gives the same records. A build that
    was interrupted is gone on with: images that were looked at and shards that were written are
    kept beside the output until it is done. What is fetched, reused or gone on with is logged.

    Args:
      source: as `sources.find_source` takes it.
      input: folder of the data set, a data set of the Hub, or a folder in a bucket; None for the
        place where the source is published. See `sources.fetch`.
      output: folder of the prepared set; its parent is made where it is missing.
      downloads: where data sets from elsewhere are kept; None for a folder beside the output.
      image_root: folder in which loose images are found too, by absolute paths or by paths relative
        to it.
      split_fractions: share of the prompt clusters by split, adding up to 1; a split that the
        source publishes for testing stays whole, and the rest is cut. None keeps all of the
        source's own splits, and takes `merge.DEFAULT_FRACTIONS` for groups without one, or
        larger shares for validation and test where there are few. Which split a cluster falls
        into depends on its captions, the fractions and the seed alone.
      seed: of the split.
      on_bad_example: "error" refuses records and images that cannot be used; "skip" leaves out such
        records, and such images with their pairs, and counts and reports them.
      near_duplicates: "merge" takes pictures that look the same for one, keeps captions that read
        nearly the same in one split, and leaves out of training what is near the set's own test
        splits, or the validation splits that its source has; "keep" asks for equal bytes and equal
        words in all of this. Drawn scenes are always kept, as their test splits are.
      criterion: what people were asked, of a source that holds judgements of several criteria;
        pairs judged by the others are left out.
      test_sets: prepared sets whose test splits must not be trained on: what is near them, in
        splits that are not for testing, is left out and reported.

    Raises:
      SourceError: the input is not there, or not in the source's layout.
      BucketError: it is in a bucket that cannot be read.
      ImageError: images that cannot be used, the first of which it names.
      FileExistsError: the output is there and was not made from this input with these settings.
      ValueError: split fractions or names that cannot be, or no pair left.
    """
    check_fractions(split_fractions)
    _check_choice("on_bad_example", on_bad_example, get_args(OnBadInput))
    _check_choice("near_duplicates", near_duplicates, get_args(NearDuplicates))
    others, output = open_test_sets(test_sets), Path(output)
    settings = {
        "split_fractions": dict(split_fractions) if split_fractions is not None else None,
        "seed": seed,
        "on_bad_example": on_bad_example,
        "near_duplicates": near_duplicates,
        "criterion": criterion,
        "test_sets": {other.name: other.digest for other in others},
    }
    downloads = output.parent / DOWNLOADS if downloads is None else downloads
    output = behind_link(output)
    folder = InputFolder(local_folder(source, input, downloads), image_root)
    data = _judged_by(criterion, _read(source, folder, on_bad_example), folder)
    _check_names(source, data, split_fractions)
    wanted = {"source": source, "settings": settings}
    if _is_taken(output):
        return _reuse(output, wanted, data, folder)
    with _building(output) as work:
        if _is_taken(output):  # by another process, while this one waited or looked
            shutil.rmtree(work)
            return _reuse(output, wanted, data, folder)
        return _build(work, output, source, folder, data, settings, others)


def _is_taken(output: Path) -> bool:
    return output.exists() and (not output.is_dir() or any(output.iterdir()))


def _check_choice(name: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise ValueError(f"{name}={value!r}; it is {' or '.join(map(repr, known))}")


def _read(source: str, folder: InputFolder, on_bad_example: str) -> SourceData:
    """What the adapter finds, its paths relative to the input folder."""
    data = read_source(
        source, folder.root, skip_bad=on_bad_example == "skip", image_root=folder.image_root
    )
    inside = tuple(line.replace(f"{folder.root}/", "") for line in data.bad_records)
    return dataclasses.replace(data, bad_records=inside)


def _judged_by(criterion: str, data: SourceData, folder: InputFolder) -> SourceData:
    """Only the groups that were judged by one criterion, since a model is asked one question."""
    counts = Counter(group.criterion for group in data.groups)
    if not criterion and len(counts) == 1:
        return data
    if criterion not in counts:
        has = ", ".join(f"{name} ({count} groups)" for name, count in counts.items())
        raise ValueError(
            f"{folder.root}: people judged by {has}; name one of these as the criterion"
        )
    left_out = counts.total() - counts[criterion]
    note = f"groups that were judged by another criterion than {criterion}: {left_out} left out"
    return dataclasses.replace(
        data,
        groups=[group for group in data.groups if group.criterion == criterion],
        notes=(*data.notes, *((note,) if left_out else ())),
    )


def _build(
    work: Path,
    output: Path,
    source: str,
    folder: InputFolder,
    data: SourceData,
    settings: dict[str, Any],
    others: Sequence[TestSet],
) -> BuildReport:
    """Scans images, plans, decontaminates, writes, and renames the folder when it is whole."""
    facts = inspect_all(folder, _refs(data), work / prepared_set.INPUT_LOG)
    if settings["on_bad_example"] == "error":
        _refuse_bad(folder, facts)
    near = data.near_is_same and settings["near_duplicates"] == "merge"
    fractions = settings["split_fractions"]
    plan = make_plan(source, data.groups, facts, fractions, settings["seed"], near)
    kept = _own_splits(source, data, fractions)
    own = own_sets(source, plan, kept) if data.near_is_same else []
    against = [*others, *own]
    plan, leaks, leaked = decontaminate(plan, against, near)
    if not plan.splits:
        raise ValueError(f"{folder.root}: no pair is left{_why(plan, leaked, facts)}")
    missing = unchecked(against)
    files = _write(work, plan, folder, source)
    report = make_report(source, data, settings, facts, plan, kept, leaks, leaked, missing, files)
    _finish(work, output, plan, report, data)
    return report


def _write(work: Path, plan: Plan, folder: InputFolder, source: str) -> Files:
    """Writes tables and columns; returns what the report says of their files."""
    records = write_tables(work, plan, folder, source, records_digest(plan))
    with explain(work):
        sizes = [(fact.height, fact.width) for fact in plan.files]
        prepared_set.write_columns(work, plan.pairs, sizes, [fact.digest for fact in plan.files])
        prepared_set.write_looks(work, hashes(plan.files), thumbs(plan.files))
    return recorded_files(work, records, (prepared_set.COLUMNS, prepared_set.LOOKS))


def _own_splits(
    source: str, data: SourceData, split_fractions: Mapping[str, float] | None
) -> set[str]:
    """Splits that the source has itself and that are kept whole."""
    own = {group.split for group in data.groups if group.split is not None}
    return own if split_fractions is None else own & {*find_source(source).test_splits}


def _check_names(
    source: str, data: SourceData, split_fractions: Mapping[str, float] | None
) -> None:
    """Refuses to put other captions into a split that is published for testing."""
    taken = _own_splits(source, data, split_fractions) & (split_fractions or {}).keys()
    if taken:
        name = min(taken)
        raise ValueError(
            f"split_fractions: {name!r} is a split that {source} publishes for testing, and stays "
            "as it is; share out the rest under other names, such as "
            "{'train': 0.95, 'validation': 0.05}"
        )


def _refs(data: SourceData) -> list[FileRef]:
    return list(dict.fromkeys(ref for group in data.groups for ref in group.images))


def _refuse_bad(folder: InputFolder, facts: Mapping[FileRef, ImageFacts]) -> None:
    """Raises ImageError about the bad images, naming the first few."""
    bad = [fact for fact in facts.values() if fact.reason]
    if not bad:
        return
    first, *others = bad
    remedy = "mend the files, or leave them out with on_bad_example=skip"
    also = [f"{fact.ref}: {fact.reason}" for fact in others[: SHOWN_IMAGES - 1]]
    if len(bad) > SHOWN_IMAGES:
        also.append(f"{len(bad) - SHOWN_IMAGES} more")
    parts = [first.detail, "also " + ", ".join(also) if also else "", remedy]
    detail = "; ".join(part for part in parts if part)
    raise images.ImageError(folder.origin(first.ref), first.reason, detail)


def _why(plan: Plan, leaked: int, facts: Mapping[FileRef, ImageFacts]) -> str:
    """What became of all pairs."""
    counts = {
        "were dropped with bad images": plan.counts["dropped_pairs"],
        "were of an image with itself, or with one that looks the same": plan.counts["self_pairs"],
        "were near a test or validation set": leaked,
    }
    lines = [f"{count} {what}" for what, count in counts.items() if count]
    return f" of {len(facts)} images" + (f": {', '.join(lines)}" if lines else "")


# ---------------------------------------------------------------------------- output


@contextlib.contextmanager
def _building(output: Path) -> Iterator[Path]:
    """A folder beside the output, kept for going on where a build does not end."""
    work = output.with_name(f".{output.name}.building")
    with explain(work):
        work.mkdir(parents=True, exist_ok=True)
    with locked(work):
        if (work / prepared_set.INPUT_LOG).is_file():
            logger.info(f"{work}: going on with a build that did not end")
        yield work


def _finish(work: Path, output: Path, plan: Plan, report: BuildReport, data: SourceData) -> None:
    """Adds what goes with the tables, reads them back, and gives the folder its name."""
    with explain(output):
        for file in data.beside:
            shutil.copyfile(file, work / file.name)
        text = json.dumps(dataclasses.asdict(report), indent=2, ensure_ascii=False) + "\n"
        (work / prepared_set.REPORT).write_text(text, encoding="utf-8")
        (work / prepared_set.READABLE_REPORT).write_text(page(report), encoding="utf-8")
        verify(prepared_set.PreparedSet(work), plan)
        give_name(work, output)
        for name in (BEGUN, LOCK):
            (output / name).unlink()


def _reuse(
    output: Path, wanted: dict[str, Any], data: SourceData, folder: InputFolder
) -> BuildReport:
    """The report of a finished output, if it is what would be made now."""
    if not (output / prepared_set.REPORT).is_file():
        raise FileExistsError(
            f"{output}: holds files, but no prepared set; choose another output or remove it"
        )
    path = output / prepared_set.REPORT
    fields = prepared_set.read_report(path, "choose another output or remove it")
    wanted |= {"version": prepared_set.VERSION}
    if fields.get("version") == prepared_set.VERSION:
        wanted["input_digest"] = _input_digest(data, folder, output / prepared_set.INPUT_LOG)
    wanted, has = _flat(wanted), _flat(fields)
    differ = [name for name in wanted if has.get(name) != wanted[name]]
    if differ:
        made = "; ".join(f"{name}={has.get(name)}, not {wanted[name]}" for name in differ)
        raise FileExistsError(
            f"{output}: a prepared set made with {made}: choose another output or remove it"
        )
    logger.info(f"{output}: already prepared from the same input and settings, reused")
    return BuildReport.from_json(fields, path)


def _flat(fields: dict[str, Any]) -> dict[str, Any]:
    return {**fields, **fields.get("settings", {}), "settings": None}


def _input_digest(data: SourceData, folder: InputFolder, log: Path) -> str:
    """Digest of the input as it is now; only files that have changed since are read."""
    refs = _refs(data)
    known = {ref: fact.digest for ref, fact in unchanged(log, refs, folder).items()}
    rest = [ref for ref in refs if ref not in known]
    digests = in_threads(_file_digest, folder.loads(rest))
    known |= tqdm(digests, "checking", len(rest), unit="image", delay=3, leave=False)
    return input_digest(data, known)


def _file_digest(ref: FileRef, load: Callable[[], bytes]) -> tuple[FileRef, str]:
    try:
        return ref, hashlib.sha256(load()).hexdigest()
    except images.ImageError:
        return ref, MISSING
