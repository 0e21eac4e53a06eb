"""Prepares a downloaded data set: two tables of records, and a report of what went in and out.

Every image is decoded once, so that a bad file is found here and not in the middle of a run; equal
files are stored once; votes for the same two images of a caption are added up; captions are split
whole, so that no caption of the test split was trained on.
"""

import concurrent.futures
import dataclasses
import hashlib
import importlib.metadata
import itertools
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from tqdm import tqdm

import lrt_jax
from lrt_jax.data import images, tables
from lrt_jax.data.records import (
    ImageFacts,
    Plan,
    check_fractions,
    first_listed_wins,
    generator_prior,
    images_in_several_splits,
    make_plan,
)
from lrt_jax.data.schema import TIE, ImageRecord, PairRecord
from lrt_jax.data.sources import SourceData, read_source
from lrt_jax.disk import new_folder, read_json

OnBadExample = Literal["error", "skip"]
DECODE_BLOCK = 1024  # images handed to the decoding threads at a time
SHOWN_IMAGES = 10  # bad images that an error names


@dataclasses.dataclass(frozen=True)
class BuildReport:
    """What a prepared set holds, and what it took to make it; `build_report.json`.

    Attributes:
      version: of the tables' layout.
      source: adapter that read the input.
      layout: which of its layouts was found.
      notes: what was assumed or overridden, one sentence each.
      settings: split fractions, seed and `on_bad_example` of the build.
      input_digest: of the groups and of all image files that went in.
      fingerprint: of the records that came out.
      groups: captions with at least one pair.
      images: distinct files.
      pairs: distinct pairs, ties included.
      ties: pairs with equal votes.
      bad_records: what is wrong with the records whose groups were left out.
      dropped: image files that could not be used.
      dropped_pairs: pairs that were lost with them.
      drop_reasons: image files by the reason why they were dropped.
      dropped_images: each dropped file and its reason.
      duplicate_images: files whose bytes another file has too.
      self_pairs: pairs of an image with itself, left out.
      merged_pairs: further judgements of pairs already seen, whose votes were added.
      conflicts: pairs whose merged judgements preferred different images.
      images_in_several_splits: images that occur under captions of different splits.
      first_listed_wins: share of untied pairs whose first image is preferred, None without any.
      generator_prior: accuracy, on untied pairs, of predicting by an image's place in its group
        alone, from the mean rank of that place over the other groups. Where places stand for
        generators this is what can be had without looking at a pixel. None where groups differ in
        size or have no ranks.
      splits: groups, pairs, ties and prompt clusters by split.
      versions: of the software.
    """

    version: str
    source: str
    layout: str
    notes: tuple[str, ...]
    settings: dict[str, Any]
    input_digest: str
    fingerprint: str
    groups: int
    images: int
    pairs: int
    ties: int
    dropped: int
    dropped_pairs: int
    drop_reasons: dict[str, int]
    dropped_images: dict[str, str]
    duplicate_images: int
    self_pairs: int
    merged_pairs: int
    conflicts: int
    images_in_several_splits: int
    first_listed_wins: float | None
    generator_prior: float | None
    splits: dict[str, dict[str, int]]
    versions: dict[str, str]
    bad_records: tuple[str, ...] = ()


def prepare(
    source: str,
    input: str | Path,
    output: str | Path,
    *,
    split_fractions: Mapping[str, float] | None = None,
    seed: int = 0,
    on_bad_example: OnBadExample = "error",
    say: Callable[[str], None] = lambda line: None,
) -> BuildReport:
    """Makes a prepared set of a downloaded data set, or finds it already made.

    The output appears whole or not at all, and the same input gives the same records.

    Args:
      source: name of an adapter, see `sources.SOURCES`.
      input: folder of the data set.
      output: folder of the prepared set; its parent is made where it is missing.
      split_fractions: share of the prompt clusters by split, adding up to 1. None keeps the
        source's own splits, and takes `records.DEFAULT_FRACTIONS` for groups without one. Which
        split a cluster falls into depends on its prompt and the seed alone, so that a data set may
        grow without moving a caption across.
      seed: of the split.
      on_bad_example: "error" refuses records and images that cannot be used; "skip" leaves out the
        groups of such records, and such images with their pairs, and counts and reports them.
      say: told, in a line, when a finished output is reused.

    Raises:
      SourceError: the input is not in the source's layout.
      ImageError: images that cannot be used, the first of which it names.
      FileExistsError: the output is there and was not made from this input with these settings.
      ValueError: split fractions or names that cannot be, or no pair left.
    """
    check_fractions(split_fractions)
    if on_bad_example not in ("error", "skip"):
        raise ValueError(f"on_bad_example={on_bad_example!r}; it is 'error' or 'skip'")
    fractions = dict(split_fractions) if split_fractions is not None else None
    settings = {"split_fractions": fractions, "seed": seed, "on_bad_example": on_bad_example}
    data, output = read_source(source, input, skip_bad=on_bad_example == "skip"), Path(output)
    paths = list(dict.fromkeys(path for group in data.groups for path in group.images))
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        digests = dict(zip(paths, _in_threads(file_digest, paths, "checking"), strict=True))
        digest = input_digest(data, Path(input), digests)
        return _reuse(output, {"source": source, "settings": settings, "input_digest": digest}, say)
    facts = dict(zip(paths, _in_threads(inspect, paths, "decoding"), strict=True))
    if on_bad_example == "error":
        _refuse_bad(facts)
    plan = make_plan(source, data.groups, facts, split_fractions, seed)
    if not plan.splits:
        raise ValueError(f"{input}: no pair is left of {len(data.groups)} groups")
    report = _report(source, data, Path(input), settings, facts, plan)
    _write(output, plan, report, data.beside)
    return report


# ---------------------------------------------------------------------------- images


def file_digest(path: str) -> str:
    """sha256 of a file, or "missing"."""
    return (
        hashlib.sha256(Path(path).read_bytes()).hexdigest() if Path(path).is_file() else "missing"
    )


def inspect(path: str) -> ImageFacts:
    """Reads and decodes one image file; never raises for a bad one."""
    try:
        if not Path(path).is_file():
            return ImageFacts(path, "missing", reason="no such file")
        data = Path(path).read_bytes()
    except OSError as error:
        return ImageFacts(path, "unreadable", reason="cannot be read", detail=str(error))
    digest = hashlib.sha256(data).hexdigest()
    try:
        image = images.decode(data, path)
        images.check_sides(*image.shape[:2], path)
    except images.ImageError as error:
        return ImageFacts(path, digest, reason=error.reason, detail=error.detail)
    height, width = image.shape[:2]
    return ImageFacts(path, digest, len(data), height, width, images.perceptual_hash(image))


def _in_threads(function: Callable, items: Sequence, title: str) -> Iterator:
    """`map` on all cores, in order, with a progress bar for what takes over three seconds."""
    with (
        concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool,
        tqdm(total=len(items), desc=title, unit="image", delay=3, leave=False) as bar,
    ):
        for start in range(0, len(items), DECODE_BLOCK):
            for result in pool.map(function, items[start : start + DECODE_BLOCK]):
                yield result
                bar.update()


def _refuse_bad(facts: Mapping[str, ImageFacts]) -> None:
    """Raises ImageError about the bad images, naming the first few."""
    bad = [fact for fact in facts.values() if fact.reason]
    if not bad:
        return
    first, *others = bad
    remedy = "mend the files, or leave them out with on_bad_example=skip"
    also = [f"{fact.path}: {fact.reason}" for fact in others[: SHOWN_IMAGES - 1]]
    if len(bad) > SHOWN_IMAGES:
        also.append(f"{len(bad) - SHOWN_IMAGES} more")
    parts = [first.detail, "also " + ", ".join(also) if also else "", remedy]
    raise images.ImageError(first.path, first.reason, "; ".join(part for part in parts if part))


# ---------------------------------------------------------------------------- report


def input_digest(data: SourceData, root: Path, digests: Mapping[str, str]) -> str:
    """Digest of what an adapter read and of all image files, wherever the folder lies."""
    rows = []
    for group in data.groups:
        names = tuple(os.path.relpath(path, root) for path in group.images)
        fields = dataclasses.asdict(dataclasses.replace(group, images=names))
        rows.append([fields, [digests[path] for path in group.images]])
    beside = {path.name: file_digest(str(path)) for path in data.beside}
    return _digest([rows, beside])


def fingerprint(plan: Plan) -> str:
    """Digest of all records of a plan.

    Not of the files beside them: pairs that come with other traces are still the same pairs.
    """
    pairs = [dataclasses.asdict(pair) for pairs in plan.splits.values() for pair in pairs]
    return _digest([tables.VERSION, [fact.digest for fact in plan.files], pairs])


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _report(
    source: str,
    data: SourceData,
    root: Path,
    settings: dict[str, Any],
    facts: Mapping[str, ImageFacts],
    plan: Plan,
) -> BuildReport:
    pairs = [pair for pairs in plan.splits.values() for pair in pairs]
    bad = [fact for fact in facts.values() if fact.reason]
    good = {fact.digest for fact in facts.values() if not fact.reason}
    return BuildReport(
        version=tables.VERSION,
        source=source,
        layout=data.layout,
        notes=(*data.notes, *_split_notes(data, settings)),
        settings=settings,
        input_digest=input_digest(data, root, {p: fact.digest for p, fact in facts.items()}),
        fingerprint=fingerprint(plan),
        images=len(plan.files),
        dropped=len(bad),
        drop_reasons=dict(sorted(Counter(fact.reason for fact in bad).items())),
        dropped_images={os.path.relpath(fact.path, root): fact.reason for fact in bad},
        duplicate_images=len(facts) - len(bad) - len(good),
        bad_records=tuple(line.replace(f"{root}{os.sep}", "") for line in data.bad_records),
        **plan.counts,
        images_in_several_splits=images_in_several_splits(plan.splits),
        first_listed_wins=first_listed_wins(pairs),
        generator_prior=generator_prior(data.groups),
        **_sizes(pairs),
        splits={name: _sizes(rows) | _clusters(rows) for name, rows in plan.splits.items()},
        versions=_versions(),
    )


def _sizes(pairs: Sequence[PairRecord]) -> dict[str, int]:
    return {
        "groups": len({(pair.split, pair.group_id) for pair in pairs}),
        "pairs": len(pairs),
        "ties": sum(pair.label == TIE for pair in pairs),
    }


def _clusters(pairs: Sequence[PairRecord]) -> dict[str, int]:
    return {"clusters": len({pair.cluster for pair in pairs})}


def _split_notes(data: SourceData, settings: dict[str, Any]) -> list[str]:
    own = Counter(group.split for group in data.groups if group.split is not None)
    if not own or settings["split_fractions"] is None:
        return []
    listed = ", ".join(f"{name}: {count} groups" for name, count in own.items())
    return [f"split_fractions override the source's own splits ({listed})"]


def _versions() -> dict[str, str]:
    names = ("numpy", "pillow", "tensorflow-datasets", "array-record")
    return {"lrt_jax": lrt_jax.__version__} | {n: importlib.metadata.version(n) for n in names}


def _reuse(output: Path, wanted: dict[str, Any], say: Callable[[str], None]) -> BuildReport:
    """The report of a finished output, if it is what would be made now."""
    if not (output / tables.REPORT).is_file():
        raise FileExistsError(
            f"{output}: holds files, but no prepared set; choose another output or remove it"
        )
    fields = read_json(output / tables.REPORT)
    wanted, has = _flat(wanted | {"version": tables.VERSION}), _flat(fields)
    differ = [name for name in wanted if has.get(name) != wanted[name]]
    if differ:
        made = "; ".join(f"{name}={has.get(name)}, not {wanted[name]}" for name in differ)
        raise FileExistsError(
            f"{output}: a prepared set made with {made}: choose another output or remove it"
        )
    say(f"{output}: already prepared from the same input and settings, reused")
    lists = {name: tuple(fields[name]) for name in ("notes", "bad_records") if name in fields}
    return BuildReport(**fields | lists)


def _flat(fields: dict[str, Any]) -> dict[str, Any]:
    return {**fields, **fields["settings"], "settings": None}


# ---------------------------------------------------------------------------- output


def _write(output: Path, plan: Plan, report: BuildReport, beside: Sequence[Path]) -> None:
    """Writes everything beside the output, reads it back, and only then gives it its name."""
    with new_folder(output) as folder:
        _write_images(folder / "images", plan.files, report.source)
        features, one_shard = tables.pair_features(), max(map(len, plan.splits.values()))
        tables.write_table(folder / "pairs", "pairs", plan.splits, features, one_shard)
        pairs = itertools.chain.from_iterable(plan.splits.values())
        tables.write_columns(folder, pairs, [(fact.height, fact.width) for fact in plan.files])
        for file in beside:
            shutil.copyfile(file, folder / file.name)
        text = json.dumps(dataclasses.asdict(report), indent=2, ensure_ascii=False) + "\n"
        (folder / tables.REPORT).write_text(text, encoding="utf-8")
        verify(tables.PreparedSet(folder), plan)


def _write_images(folder: Path, files: Sequence[ImageFacts], source: str) -> None:
    bar = tqdm(files, desc="writing", unit="image", delay=3, leave=False)
    records = (_image_record(fact, source) for fact in bar)
    shards = -(-sum(fact.size for fact in files) // tables.SHARD_BYTES)
    per_shard = -(-len(files) // max(shards, 1))
    tables.write_table(
        folder, "images", {tables.IMAGE_SPLIT: records}, tables.image_features(), per_shard
    )


def _image_record(fact: ImageFacts, source: str) -> ImageRecord:
    return ImageRecord(
        key=fact.digest,
        image=Path(fact.path).read_bytes(),
        height=fact.height,
        width=fact.width,
        phash=fact.phash,
        source=source,
        valid=True,
    )


def verify(prepared: tables.PreparedSet, plan: Plan) -> None:
    """Reads every record back.

    Raises:
      ValueError: an image whose bytes are not its key's, or a pair that is not the planned one.
    """
    for row, fact in enumerate(
        tqdm(plan.files, desc="verifying", unit="image", delay=3, leave=False)
    ):
        image = prepared.image(row)
        if not image.key == hashlib.sha256(image.image).hexdigest() == fact.digest:
            raise ValueError(f"image {row} ({fact.path}) changed while it was written")
    pairs = [pair for pairs in plan.splits.values() for pair in pairs]
    for row, pair in enumerate(tqdm(pairs, desc="verifying", unit="pair", delay=3, leave=False)):
        if repr(prepared.pair(row)) != repr(
            pair
        ):  # equality would hold unknown ranks, NaN, unequal
            raise ValueError(f"pair {row} ({pair.uid}) was not written as planned")
