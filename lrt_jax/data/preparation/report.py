"""What a prepared set holds and what it took to make it, as JSON and as a page to read."""

import dataclasses
import hashlib
import importlib.metadata
import json
import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

import lrt_jax
from lrt_jax.data.dataset import prepared_set
from lrt_jax.data.dataset.set_files import REMEDY, Files, fingerprint
from lrt_jax.data.images import MIN_SIDE, TIERS
from lrt_jax.data.preparation.decontamination import is_validation
from lrt_jax.data.preparation.image_scan import ImageFacts
from lrt_jax.data.preparation.merge import (
    DEFAULT_FRACTIONS,
    LEAST_CLUSTERS,
    LEAST_PAIRS,
    SPREAD,
    Plan,
)
from lrt_jax.data.schema import FIRST, SECOND, TIE, FileRef, Flag, Group, PairRecord
from lrt_jax.data.sources import SourceData
from lrt_jax.storage.disk import read_plainly

MANY_ALIKE = 0.1  # of the captions; said where so many belong together
LONG_CAPTION = 2000  # characters; such are listed
QUANTILES = {"least": 0, "median": 0.5, "p95": 0.95, "most": 1}


@dataclasses.dataclass(frozen=True)
class BuildReport:
    """What a prepared set holds, and what it took to make it; `build_report.json`."""

    version: str  # of the tables' layout
    source: str  # adapter that read the input
    layout: str  # which of its layouts was found
    notes: tuple[str, ...]  # what was assumed or overridden, one sentence each
    settings: dict[str, Any]  # what the build was asked for, and the digests of its test sets
    input_digest: str  # of the groups and of all image files that went in
    records_digest: str  # of the records that came out
    # Size, SHA-256 and number of records of the files that hold them, see `set_files`.
    files: dict[str, dict[str, Any]]
    fingerprint: str  # of records and files
    groups: int  # captions with at least one pair
    images: int  # distinct files
    pairs: int  # distinct pairs, ties included
    ties: int  # pairs with equal votes
    # What is wrong with the records that were left out; where a record is a whole group, or a group
    # needs all of its records, with their groups.
    bad_records: tuple[str, ...]
    dropped: int  # image files that could not be used
    dropped_pairs: int  # pairs that were lost with them
    drop_reasons: dict[str, int]  # image files by the reason why they were dropped
    dropped_images: dict[str, str]  # each dropped file and its reason
    changed: dict[str, int]  # image files by what decoding changes in them
    changed_images: dict[str, str]  # each such file and what is changed
    duplicate_images: int  # files whose bytes another file has too
    near_duplicates: int  # distinct files that look the same as another, which is kept for them
    near_images: dict[str, str]  # each such file, and the one that is kept
    self_pairs: int  # pairs of an image with itself, left out
    merged_pairs: int  # further judgements of pairs already seen, whose votes were added
    conflicts: int  # pairs whose merged judgements preferred different images
    # By test set, and for the source's own validation splits, what was near it: captions, images,
    # and pairs that were left out for it.
    leaks: dict[str, dict[str, Any]]
    leaked_pairs: int  # pairs that were left out for any of them
    unchecked: tuple[str, ...]  # public test sets that this set was not compared with
    # Those that the source has itself, whole, and that no fractions cut.
    own_splits: tuple[str, ...]
    images_in_several_splits: int  # images that occur under captions of different splits
    clusters_in_several_splits: int  # prompt clusters that a source's own splits cut
    # Share of untied pairs whose first image is preferred, None without any.
    first_listed_wins: float | None
    # Accuracy, on untied pairs, of a predictor that never looks at a pixel, see `generator_prior`.
    generator_prior: float | None
    same_generator: int  # pairs whose images one model made
    votes: dict[str, int]  # pairs by the number of their votes
    margins: dict[str, int]  # pairs by the difference of their votes, as a share of them, in tenths
    criteria: dict[str, int]  # pairs by what people were asked
    # Images by the least of the loader's tiers that holds their patches of 14 pixels.
    sizes: dict[str, int]
    shapes: int  # pairs whose images are not of one shape
    caption_lengths: dict[str, float]  # characters, as quantiles and mean
    # Those of more than `LONG_CAPTION` characters, by their beginning.
    long_captions: tuple[str, ...]
    largest_cluster: int  # captions that belong together at most
    splits: dict[str, dict[str, int]]  # groups, pairs, ties and prompt clusters by split
    versions: dict[str, str]  # of the software

    @classmethod
    def from_json(cls, fields: dict[str, Any], path: epath.PathLike) -> "BuildReport":
        """Of what `build_report.json` holds.

        Args:
          fields: in that file.
          path: of the file.

        Raises:
          ValueError: a field is missing, or is none of these.
        """
        tuples = {f.name for f in dataclasses.fields(cls) if str(f.type).startswith("tuple")}
        with read_plainly(path, REMEDY):
            return cls(**{name: tuple(x) if name in tuples else x for name, x in fields.items()})


def make_report(
    source: str,
    data: SourceData,
    settings: dict[str, Any],
    facts: Mapping[FileRef, ImageFacts],
    plan: Plan,
    own_splits: Collection[str],
    leaks: dict[str, dict[str, Any]],
    leaked_pairs: int,
    unchecked: Sequence[str],
    files: Files,
) -> BuildReport:
    """Counts everything.

    Args:
      source: name of the adapter.
      data: what it found.
      settings: of the build.
      facts: of all images.
      plan: what is written.
      own_splits: of the source, that no fractions cut.
      leaks: of each test set, see `decontamination.leak_report`.
      leaked_pairs: that were left out for them.
      unchecked: public test sets that were not at hand.
      files: that were written.
    """
    pairs, digest = plan.pairs, records_digest(plan)
    return BuildReport(
        version=prepared_set.VERSION,
        source=source,
        layout=data.layout,
        notes=(
            *data.notes,
            *_split_notes(data, settings, own_splits),
            *_few_notes(plan, settings, own_splits),
            *_cluster_notes(pairs),
        ),
        settings=settings,
        input_digest=input_digest(data, {ref: fact.digest for ref, fact in facts.items()}),
        records_digest=digest,
        files={name: dict(file) for name, file in files.items()},
        fingerprint=fingerprint(
            digest, files, {name: len(records) for name, records in plan.splits.items()}
        ),
        bad_records=data.bad_records,
        **_image_counts(facts),
        **plan.counts,
        conflicts=sum(bool(pair.flags & Flag.CONFLICT) for pair in pairs),
        leaks=leaks,
        unchecked=tuple(unchecked),
        own_splits=tuple(name for name in plan.splits if name in own_splits),
        images=len(plan.files),
        images_in_several_splits=_in_several(plan.splits, lambda pair: pair.image_index),
        clusters_in_several_splits=_in_several(plan.splits, lambda pair: (pair.cluster,)),
        near_duplicates=len(plan.near_images),
        near_images=_near_images(facts, plan),
        first_listed_wins=first_listed_wins(pairs),
        generator_prior=generator_prior(data.groups),
        leaked_pairs=leaked_pairs,
        **_pair_counts(pairs, plan.files),
        **_caption_counts(pairs),
        **_sizes(pairs),
        splits={
            name: _sizes(rows) | {"clusters": len({pair.cluster for pair in rows})}
            for name, rows in plan.splits.items()
        },
        versions=_versions(),
    )


# ---------------------------------------------------------------------------- digests


def input_digest(data: SourceData, digests: Mapping[FileRef, str]) -> str:
    """Digest of what an adapter read and of all image files, wherever the folder lies."""
    rows = ([dataclasses.asdict(g), [digests[ref] for ref in g.images]] for g in data.groups)
    beside = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in data.beside}
    return _digest([*rows, beside])


def records_digest(plan: Plan) -> str:
    """Digest of all records of a plan.

    Not of the files beside them: pairs that come with other traces are still the same pairs.
    """
    pairs = map(dataclasses.asdict, plan.pairs)
    return _digest([prepared_set.VERSION, [fact.digest for fact in plan.files], *pairs])


def _digest(rows: Iterable[Any]) -> str:
    digest = hashlib.sha256()
    for row in rows:  # one by one: together they may be gigabytes
        digest.update(json.dumps(row, sort_keys=True).encode() + b"\n")
    return digest.hexdigest()


# ---------------------------------------------------------------------------- counts


def _image_counts(facts: Mapping[FileRef, ImageFacts]) -> dict[str, Any]:
    bad = [fact for fact in facts.values() if fact.reason]
    good = [fact for fact in facts.values() if not fact.reason]
    changes = Counter(change for fact in good for change in fact.changes)
    return {
        "dropped": len(bad),
        "drop_reasons": dict(sorted(Counter(fact.reason for fact in bad).items())),
        "dropped_images": {str(fact.ref): fact.reason for fact in bad},
        "changed": dict(sorted(changes.items())),
        "changed_images": {str(f.ref): "; ".join(f.changes) for f in good if f.changes},
        "duplicate_images": len(good) - len({fact.digest for fact in good}),
    }


def _pair_counts(pairs: Sequence[PairRecord], files: Sequence[ImageFacts]) -> dict[str, Any]:
    votes = Counter(sum(pair.votes) for pair in pairs)
    margins = Counter(_margin(pair) for pair in pairs)
    steps = Counter(_size_step(fact) for fact in files)
    shapes = [fact.height / fact.width for fact in files]
    names = (*map(str, TIERS), "more")
    return {
        "same_generator": sum(bool(pair.flags & Flag.SAME_GENERATOR) for pair in pairs),
        "votes": {f"{number:g}": votes[number] for number in sorted(votes)},
        "margins": {name: margins[name] for name in sorted(margins)},
        "criteria": dict(Counter(pair.criterion for pair in pairs)),
        "sizes": {name: steps[name] for name in names if name in steps},
        "shapes": sum(shapes[i] != shapes[j] for i, j in (pair.image_index for pair in pairs)),
    }


def _margin(pair: PairRecord) -> str:
    first, second = pair.votes
    if not first + second:
        return "no votes"
    return f"{math.floor(abs(first - second) / (first + second) * 10) / 10:.1f}"


def _size_step(fact: ImageFacts) -> str:
    patches = -(-fact.height // MIN_SIDE) * -(-fact.width // MIN_SIDE)
    return next((str(step) for step in TIERS if patches <= step), "more")


def _caption_counts(pairs: Sequence[PairRecord]) -> dict[str, Any]:
    clusters = {pair.prompt: pair.cluster for pair in pairs}
    lengths = [len(caption) for caption in clusters]
    marks = zip(QUANTILES, np.quantile(lengths, list(QUANTILES.values())).tolist(), strict=True)
    return {
        "caption_lengths": {**dict(marks), "mean": round(float(np.mean(lengths)), 1)},
        "long_captions": tuple(
            f"{len(c):,} characters: {c[:60]}..." for c in clusters if len(c) > LONG_CAPTION
        ),
        "largest_cluster": max(Counter(clusters.values()).values()),
    }


def _sizes(pairs: Sequence[PairRecord]) -> dict[str, int]:
    return {
        "groups": len({(pair.split, pair.group_id) for pair in pairs}),
        "pairs": len(pairs),
        "ties": sum(pair.label == TIE for pair in pairs),
    }


def _split_notes(
    data: SourceData, settings: dict[str, Any], own_splits: Collection[str]
) -> list[str]:
    """What became of the source's own splits where fractions are given."""
    own = Counter(group.split for group in data.groups if group.split is not None)
    if not own or settings["split_fractions"] is None:
        return []
    said = {
        "split_fractions override the source's own splits": own.keys() - own_splits,
        "split_fractions leave splits that are published for testing whole": own_splits,
    }
    return [
        f"{what} ({', '.join(f'{name}: {own[name]} groups' for name in own if name in names)})"
        for what, names in said.items()
        if names
    ]


def _few_notes(plan: Plan, settings: dict[str, Any], own_splits: Collection[str]) -> list[str]:
    """What to say of shares that were chosen, and of a validation split that was cut too small."""
    notes, fractions = [], plan.fractions or {}
    shares = ",".join(f"{name}={share:g}" for name, share in fractions.items())
    if fractions and settings["split_fractions"] is None and fractions != DEFAULT_FRACTIONS:
        notes.append(f"there are few captions without a split, so they were cut by {shares}")
    cut = [pair for name, rows in plan.splits.items() if name not in own_splits for pair in rows]
    for name in filter(is_validation, fractions):
        pairs, clusters = _untied([pair for pair in cut if pair.split == name])
        if pairs < LEAST_PAIRS or clusters < LEAST_CLUSTERS:
            notes.append(
                f"split {name} has {pairs} pairs with a preference, of {clusters} captions: "
                f"figures of fewer than {LEAST_PAIRS} pairs or {LEAST_CLUSTERS} captions tell "
                f"little; {_larger(name, cut)}"
            )
    return notes


def _untied(pairs: Sequence[PairRecord]) -> tuple[int, int]:
    """How many pairs have a preference, and how many prompt clusters have such pairs."""
    found = [pair.cluster for pair in pairs if pair.label in (FIRST, SECOND)]
    return len(found), len(set(found))


def _larger(name: str, cut: Sequence[PairRecord]) -> str:
    """What to do about a split that has too few of the pairs that were cut."""
    pairs, clusters = _untied(cut)
    needed = max(LEAST_PAIRS / max(pairs, 1), LEAST_CLUSTERS / max(clusters, 1)) * SPREAD
    share = math.ceil(needed * 20) / 20
    if share > 0.5:
        return "there are too few to hold that many out: add pairs of more captions"
    return f"cut more of them with split_fractions, such as train={1 - share:g},{name}={share:g}"


def _cluster_notes(pairs: Sequence[PairRecord]) -> list[str]:
    """What to say where captions made by a template read nearly the same."""
    captions = Counter({pair.prompt: pair.cluster for pair in pairs}.values())
    _, most = captions.most_common(1)[0]
    if most < max(3, MANY_ALIKE * captions.total()):
        return []
    return [
        f"{most:,} of {captions.total():,} captions read nearly the same and stay in one split; "
        "near_duplicates=keep tells them apart"
    ]


def _versions() -> dict[str, str]:
    names = ("numpy", "pillow", "scikit-learn", "tensorflow-datasets", "array-record")
    return {"lrt_jax": lrt_jax.__version__} | {n: importlib.metadata.version(n) for n in names}


def first_listed_wins(pairs: Iterable[PairRecord]) -> float | None:
    """Share of untied pairs whose first image is preferred."""
    wins = [pair.label == FIRST for pair in pairs if pair.label in (FIRST, SECOND)]
    return float(np.mean(wins)) if wins else None


def generator_prior(groups: Sequence[Group]) -> float | None:
    """Accuracy of a predictor that knows which model made an image, and nothing else.

    Of each pair it prefers the model that did better in the *other* groups: by its mean rank where
    all groups have ranks, else by its share of the votes. A predicted tie is wrong. Where models
    are not named, indices in a group stand for them, if all groups have as many; where only some
    groups name them, as of HPDv2 the test, it is of those.

    Returns:
      None with fewer than two groups, without names and with groups of different sizes or without
      ranks, and without untied pairs.
    """
    groups = [group for group in groups if group.generators] or groups
    named = all(group.generators for group in groups)
    ranked = all(group.ranks is not None for group in groups)
    alike = len({len(group.images) for group in groups}) == 1
    if len(groups) < 2 or not (named or (ranked and alike)):
        return None
    scores = [_scores(group, ranked) for group in groups]
    total = Counter()
    for score in scores:
        total.update(score)
    hits = [
        hit
        for group, score in zip(groups, scores, strict=True)
        for hit in _hits(group, score, total)
    ]
    return float(np.mean(hits)) if hits else None


def _makers(group: Group) -> Sequence[str | int]:
    return group.generators or range(len(group.images))


def _scores(group: Group, ranked: bool) -> Counter:
    """Sum and number of what speaks for each model: `(model, "sum")` and `(model, "count")`."""
    makers, score = _makers(group), Counter()
    if ranked:
        said = ((maker, -rank) for maker, rank in zip(makers, group.ranks, strict=True))
    else:
        said = (
            (makers[index], votes / (first + second))
            for i, j, first, second in group.pairs
            if first + second
            for index, votes in ((i, first), (j, second))
        )
    for maker, value in said:
        score[maker, "sum"] += value
        score[maker, "count"] += 1
    return score


def _hits(group: Group, score: Counter, total: Counter) -> Iterable[bool]:
    """Whether each untied pair is predicted by what speaks for its models elsewhere."""
    makers = _makers(group)

    def elsewhere(index: int) -> float:
        total_sum, count = (
            total[makers[index], x] - score[makers[index], x] for x in ("sum", "count")
        )
        return total_sum / count if count else math.nan

    for i, j, first, second in group.pairs:
        if first != second:
            better, worse = (i, j) if first > second else (j, i)
            yield elsewhere(better) > elsewhere(worse)


def _in_several(
    splits: Mapping[str, Sequence[PairRecord]], numbers: Callable[[PairRecord], Iterable[int]]
) -> int:
    """How many numbers that pairs have occur in more than one split."""
    uses = Counter(
        number
        for pairs in splits.values()
        for number in {number for pair in pairs for number in numbers(pair)}
    )
    return sum(count > 1 for count in uses.values())


def _near_images(facts: Mapping[FileRef, ImageFacts], plan: Plan) -> dict[str, str]:
    names = {fact.digest: str(ref) for ref, fact in reversed(facts.items())}
    return {names[one]: names[kept] for one, kept in plan.near_images.items()}
