"""Groups of a source to pair records: votes merged, captions clustered, clusters split."""

import dataclasses
import hashlib
import itertools
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from lrt_jax.data.schema import FIRST, SECOND, Group, PairRecord, hard_label, smoothed_share

DEFAULT_FRACTIONS = {"train": 0.9, "validation": 0.05, "test": 0.05}


@dataclasses.dataclass(frozen=True)
class ImageFacts:
    """What the build keeps of an image file; `reason` says why it cannot be used, or is empty."""

    path: str
    digest: str  # sha256 of the file, hexadecimal, or "missing"
    size: int = 0  # bytes
    height: int = 0  # pixels, after the EXIF orientation is applied
    width: int = 0
    phash: int = 0
    reason: str = ""
    detail: str = ""


@dataclasses.dataclass
class _Merged:
    """Votes of one unordered pair, in the order of its first occurrence."""

    group: Group
    places: tuple[int, int]
    votes: tuple[float, float]
    labels: set[int]

    def add(self, votes: tuple[float, float]) -> None:
        self.votes = (self.votes[0] + votes[0], self.votes[1] + votes[1])
        self.labels.add(hard_label(votes))


@dataclasses.dataclass(frozen=True)
class Plan:
    """What will be written: files in the order of the images table, pairs by split."""

    files: list[ImageFacts]
    splits: dict[str, list[PairRecord]]
    counts: dict[str, int]  # dropped_pairs, self_pairs, merged_pairs, conflicts


def make_plan(
    source: str,
    groups: Iterable[Group],
    facts: Mapping[str, ImageFacts],
    split_fractions: Mapping[str, float] | None,
    seed: int,
) -> Plan:
    """Decides on every record of a prepared set, without writing any."""
    groups = list(groups)
    clusters = {text: i for i, text in enumerate(dict.fromkeys(map(_cluster_text, groups)))}
    merged, counts = _merge_pairs(groups, facts, split_fractions, seed)
    files: dict[str, ImageFacts] = {}
    splits: dict[str, list[PairRecord]] = {}
    for (split, *_), pair in merged.items():
        used = [facts[pair.group.images[place]] for place in pair.places]
        for fact in used:
            files.setdefault(fact.digest, fact)
        keys = tuple(fact.digest for fact in used)
        cluster = clusters[_cluster_text(pair.group)]
        splits.setdefault(split, []).append(_pair_record(source, split, cluster, pair, keys))
    rows = {key: row for row, key in enumerate(files)}
    names = dict.fromkeys([*(split_fractions or DEFAULT_FRACTIONS), *sorted(splits)])
    return Plan(
        files=list(files.values()),
        splits={
            name: [_with_rows(pair, rows) for pair in splits[name]]
            for name in names
            if name in splits
        },
        counts=counts,
    )


def _merge_pairs(groups, facts, split_fractions, seed) -> tuple[dict[tuple, _Merged], dict]:
    """Adds up votes by split, caption and unordered pair of images."""
    counts = Counter(dropped_pairs=0, self_pairs=0, merged_pairs=0, conflicts=0)
    merged: dict[tuple, _Merged] = {}
    for group in groups:
        split = split_of(group, split_fractions, seed)
        for i, j, first, second in group.pairs:
            one, other = (facts[group.images[place]] for place in (i, j))
            if one.reason or other.reason:
                counts["dropped_pairs"] += 1
            elif one.digest == other.digest:
                counts["self_pairs"] += 1
            elif pair := merged.get(key := (split, group.prompt, one.digest, other.digest)):
                pair.add((first, second))
                counts["merged_pairs"] += 1
            elif pair := merged.get((split, group.prompt, other.digest, one.digest)):
                pair.add((second, first))
                counts["merged_pairs"] += 1
            else:
                votes = (float(first), float(second))
                merged[key] = _Merged(group, (i, j), votes, {hard_label(votes)})
    counts["conflicts"] = sum({FIRST, SECOND} <= pair.labels for pair in merged.values())
    return merged, dict(counts)


def _pair_record(
    source: str, split: str, cluster: int, pair: _Merged, keys: tuple[str, str]
) -> PairRecord:
    """A record whose `image_index` still holds the images' keys."""
    group, (i, j) = pair.group, pair.places

    def both(values, default):
        return (values[i], values[j]) if values else (default, default)

    ranks = both(pair.group.ranks, math.nan)

    return PairRecord(
        uid=pair_uid(source, split, group.group_id, i, j),
        source=source,
        split=split,
        group_id=group.group_id,
        cluster=cluster,
        prompt=group.prompt,
        image_index=keys,
        votes=pair.votes,
        rank=(_as_stored(ranks[0]), _as_stored(ranks[1])),
        label=hard_label(pair.votes),
        p_first=_as_stored(smoothed_share(pair.votes)),
        generator=both(group.generators, ""),
    )


def pair_uid(source: str, split: str, group_id: str, i: int, j: int) -> str:
    """Name of the pair of a group's images `i` and `j`, in their stored order."""
    return f"{source}/{split}/{group_id}/{i}-{j}"


def _as_stored(value: float) -> float:
    return float(np.float32(value))


def _with_rows(pair: PairRecord, rows: Mapping[str, int]) -> PairRecord:
    return dataclasses.replace(pair, image_index=tuple(rows[key] for key in pair.image_index))


# ---------------------------------------------------------------------------- splits


def normalise(prompt: str) -> str:
    """A caption's words, for comparing: without case, punctuation, compatibility forms."""
    text = unicodedata.normalize("NFKC", prompt).casefold()
    return " ".join(re.findall(r"\w+", text)) or text.strip()


def _cluster_text(group: Group) -> str:
    return normalise(group.prompt)


def split_of(group: Group, fractions: Mapping[str, float] | None, seed: int) -> str:
    """Split of a group: its own, or by a seeded hash of its prompt cluster."""
    if fractions is None and group.split is not None:
        return group.split
    fractions = DEFAULT_FRACTIONS if fractions is None else fractions
    digest = hashlib.sha256(f"{seed}\n{_cluster_text(group)}".encode()).digest()
    place = int.from_bytes(digest[:8], "big") / 2**64
    names = sorted(fractions)  # so that the order in which they are written does not matter
    ends = itertools.accumulate(fractions[name] for name in names)
    for name, end in zip(names, ends, strict=True):
        if place < end:
            return name
    return names[-1]  # the fractions add up to 1 only within rounding


def check_fractions(fractions: Mapping[str, float] | None) -> None:
    """Raises ValueError for fractions that are not positive, do not add up to 1, or bad names."""
    if fractions is None:
        return
    for name, fraction in fractions.items():
        if not re.fullmatch(r"[a-z]\w*", name) or name == "all":
            raise ValueError(f"split name {name!r}: use lower-case letters, and not 'all'")
        if not 0 < fraction <= 1:
            raise ValueError(f"split {name!r} has the fraction {fraction}; leave out empty splits")
    if not math.isclose(sum(fractions.values()), 1, abs_tol=1e-6):
        raise ValueError(f"split fractions add up to {sum(fractions.values()):g}, not to 1")


# ---------------------------------------------------------------------------- statistics


def first_listed_wins(pairs: Iterable[PairRecord]) -> float | None:
    """Share of untied pairs whose first image is preferred."""
    wins = [pair.label == FIRST for pair in pairs if pair.label in (FIRST, SECOND)]
    return float(np.mean(wins)) if wins else None


def generator_prior(groups: Sequence[Group]) -> float | None:
    """Accuracy of a predictor that knows an image's place in its group, and nothing else.

    For each group it ranks the places by their mean rank over the *other* groups. A predicted tie
    is wrong. None with fewer than two groups, groups of different sizes, or no ranks.
    """
    if len(groups) < 2 or any(group.ranks is None for group in groups):
        return None
    if len({len(group.images) for group in groups}) > 1:
        return None
    ranks = np.array([group.ranks for group in groups])
    others = (ranks.sum(0) - ranks) / (len(groups) - 1)
    hits = [
        expected[i] < expected[j] if first > second else expected[j] < expected[i]
        for group, expected in zip(groups, others, strict=True)
        for i, j, first, second in group.pairs
        if first != second
    ]
    return float(np.mean(hits)) if hits else None


def images_in_several_splits(splits: Mapping[str, Sequence[PairRecord]]) -> int:
    uses = Counter(
        itertools.chain.from_iterable(
            {index for pair in pairs for index in pair.image_index} for pairs in splits.values()
        )
    )
    return sum(count > 1 for count in uses.values())
