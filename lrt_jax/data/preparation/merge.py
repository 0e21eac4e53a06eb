"""Groups of a source to pair records: votes merged, captions clustered, clusters split."""

import dataclasses
import hashlib
import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Container, Iterable, Mapping, Sequence

import numpy as np

from lrt_jax.data.captions import normalise
from lrt_jax.data.preparation.image_scan import ImageFacts, hashes, thumbs
from lrt_jax.data.preparation.near_duplicates import caption_clusters, same_pictures
from lrt_jax.data.schema import (
    FIRST,
    SECOND,
    FileRef,
    Flag,
    Group,
    PairRecord,
    hard_label,
    pair_uid,
    smoothed_share,
)
from lrt_jax.data.sources import find_source
from lrt_jax.data.sources.checking import SPLIT_REMEDY, is_split_name

DEFAULT_FRACTIONS = {"train": 0.9, "validation": 0.05, "test": 0.05}
SHARES = (0.05, 0.1, 0.15, 0.2, 0.25)  # of validation and of test, by default: larger of less
# What figures of a validation split need at least to tell anything.
LEAST_PAIRS, LEAST_CLUSTERS = 30, 10
SPREAD = 1.5  # how many times as many to expect, since clusters fall into splits by chance


@dataclasses.dataclass(frozen=True)
class Plan:
    """What will be written: images in the order of their table, pairs by split."""

    # Images that occur in a pair, each once, in the order in which they are best read.
    files: list[ImageFacts]
    splits: dict[str, list[PairRecord]]  # records, whose `image_index` are indices into `files`
    counts: dict[str, int]  # dropped_pairs, self_pairs, merged_pairs
    # Digests of images that look the same as another, to that of the one kept.
    near_images: dict[str, str]
    # That cut what has no split of its own, or that were given; None where all has one.
    fractions: Mapping[str, float] | None = None

    @property
    def pairs(self) -> list[PairRecord]:
        """All of them, split after split."""
        return list(itertools.chain.from_iterable(self.splits.values()))


@dataclasses.dataclass
class _Merged:
    """Judgements of one unordered pair, in the order of its first occurrence."""

    group: Group
    indices: tuple[int, int]  # of the pair's images in the group
    votes: tuple[float, float]
    weighted: tuple[float, float]
    labels: set[int]
    looks_alike: bool

    def add(self, votes: tuple[float, float], weighted: tuple[float, float]) -> None:
        self.votes = (self.votes[0] + votes[0], self.votes[1] + votes[1])
        self.weighted = (self.weighted[0] + weighted[0], self.weighted[1] + weighted[1])
        self.labels.add(hard_label(votes))


def make_plan(
    source: str,
    groups: Iterable[Group],
    facts: Mapping[FileRef, ImageFacts],
    split_fractions: Mapping[str, float] | None,
    seed: int,
    near_is_same: bool = False,
) -> Plan:
    """Decides on every record of a prepared set, without writing any.

    Args:
      source: name of the source.
      groups: what it found.
      facts: of every image, in the order in which they are best read.
      split_fractions: see `prepare.prepare`.
      seed: of the split.
      near_is_same: whether pictures that look the same are one, and captions that read nearly the
        same are a cluster.
    """
    groups = list(groups)
    tests = find_source(source).test_splits
    own = split_fractions is None and all(group.split is not None for group in groups)
    names = _names(groups, split_fractions is not None)
    clusters = _Clusters(groups, near_is_same)
    default = None if own else _default_fractions(groups, clusters)
    images = _stands_for(facts.values(), near_is_same, _judged(groups, facts))

    def own_or_cut(group: Group) -> str:
        text = clusters.text(group)
        return split_of(group, split_fractions, seed, text, tests, default or DEFAULT_FRACTIONS)

    merged, counts = _merge_pairs(groups, facts, images, own_or_cut)
    used: set[str] = set()
    splits: dict[str, list[PairRecord]] = {}
    for (split, _, _, *keys), pair in merged.items():
        used.update(keys)
        record = _pair_record(
            source, split, names[id(pair.group)], clusters.number(pair.group), pair, tuple(keys)
        )
        splits.setdefault(split, []).append(record)
    files = [fact for key, fact in _distinct(facts.values()).items() if key in used]
    rows = {fact.digest: row for row, fact in enumerate(files)}
    order = dict.fromkeys([*(split_fractions or DEFAULT_FRACTIONS), *sorted(splits)])
    return Plan(
        files=files,
        splits={n: [_with_rows(pair, rows) for pair in splits[n]] for n in order if n in splits},
        counts=counts,
        near_images={one: kept for one, kept in images.items() if one != kept},
        fractions=split_fractions or default,
    )


def without(plan: Plan, gone: set[str]) -> Plan:
    """A plan without the pairs of some uids, and without the images that only they show."""
    splits = {
        name: kept
        for name, pairs in plan.splits.items()
        if (kept := [pair for pair in pairs if pair.uid not in gone])
    }
    used = {row for pairs in splits.values() for pair in pairs for row in pair.image_index}
    rows = {row: index for index, row in enumerate(sorted(used))}
    return dataclasses.replace(
        plan,
        files=[plan.files[row] for row in rows],
        splits={name: [_with_rows(pair, rows) for pair in kept] for name, kept in splits.items()},
    )


# ---------------------------------------------------------------------------- merging


def _distinct(facts: Iterable[ImageFacts]) -> dict[str, ImageFacts]:
    """The first of the images of the same bytes, without those that cannot be used."""
    distinct: dict[str, ImageFacts] = {}
    for fact in facts:
        if not fact.reason:
            distinct.setdefault(fact.digest, fact)
    return distinct


def _judged(groups: Iterable[Group], facts: Mapping[FileRef, ImageFacts]) -> dict[str, set[str]]:
    """Digest of each image to those of the images that it was compared with by people."""
    rivals: dict[str, set[str]] = defaultdict(set)
    for group in groups:
        digests = [facts[ref].digest for ref in group.images]
        for i, j, *_ in group.pairs:
            rivals[digests[i]].add(digests[j])
            rivals[digests[j]].add(digests[i])
    return rivals


def _stands_for(
    facts: Iterable[ImageFacts], near_is_same: bool, rivals: Mapping[str, set[str]]
) -> dict[str, str]:
    """Digest of each image that can be used, to that of the image that is kept for it.

    Images that look the same are one, but never two that people compared with each other, which
    `rivals` says: what they judged is then what was done to a picture. The largest is kept, the
    first of equals; each other is the first of those kept that stands for none of its rivals, or is
    kept too.
    """
    files = list(_distinct(facts).values())
    kept = {fact.digest: fact.digest for fact in files}
    if not near_is_same or len(files) < 2:
        return kept
    alike: dict[int, list[ImageFacts]] = defaultdict(list)
    for fact, first in zip(files, same_pictures(hashes(files), thumbs(files)), strict=True):
        alike[int(first)].append(fact)
    for same in alike.values():
        same.sort(key=lambda fact: -fact.height * fact.width)  # equals stay in their order
        stays: list[str] = []
        done: dict[str, str] = {}
        for digest in (fact.digest for fact in same):
            taken = {done.get(rival) for rival in rivals.get(digest, ())}
            done[digest] = next((one for one in stays if one not in taken), digest)
            if done[digest] == digest:
                stays.append(digest)
        kept |= done
    return kept


def _merge_pairs(
    groups, facts, images, split: Callable[[Group], str]
) -> tuple[dict[tuple, _Merged], dict]:
    """Adds up votes by split, caption, criterion and unordered pair of images."""
    counts = Counter(dropped_pairs=0, self_pairs=0, merged_pairs=0)
    merged: dict[tuple, _Merged] = {}
    for group in groups:
        about = (split(group), normalise(group.prompt), group.criterion)
        unknown = ((math.nan, math.nan),) * len(group.pairs)
        for (i, j, *votes), weighted in zip(group.pairs, group.weighted or unknown, strict=True):
            both = [facts[group.images[index]] for index in (i, j)]
            if any(fact.reason for fact in both):
                counts["dropped_pairs"] += 1
                continue
            one, other = (images[fact.digest] for fact in both)
            turn = -1 if (*about, other, one) in merged else 1
            if one == other:
                counts["self_pairs"] += 1
            elif pair := merged.get((*about, *(one, other)[::turn])):
                pair.add(tuple(votes[::turn]), weighted[::turn])
                counts["merged_pairs"] += 1
            else:
                merged[*about, one, other] = _Merged(
                    group=group,
                    indices=(i, j),
                    votes=(float(votes[0]), float(votes[1])),
                    weighted=weighted,
                    labels={hard_label(tuple(votes))},
                    looks_alike=[fact.digest for fact in both] != [one, other],
                )
    return merged, dict(counts)


def _names(groups: Sequence[Group], pooled: bool) -> dict[int, str]:
    """Names of groups by their `id`: one that is another's too, as in two splits, gets a number."""
    seen: Counter[tuple[str | None, str]] = Counter()
    names = {}
    for group in groups:
        key = (None if pooled else group.split, group.group_id)
        names[id(group)] = f"{group.group_id}#{seen[key]}" if seen[key] else group.group_id
        seen[key] += 1
    return names


def _pair_record(
    source: str, split: str, name: str, cluster: int, pair: _Merged, keys: tuple[str, str]
) -> PairRecord:
    """A record whose `image_index` still holds the images' keys."""
    group, (i, j) = pair.group, pair.indices

    def both(values, default):
        return (values[i], values[j]) if values else (default, default)

    ranks = both(group.ranks, math.nan)
    generators = both(group.generators, "")
    flags = {
        Flag.CONFLICT: {FIRST, SECOND} <= pair.labels,
        Flag.NEAR_DUPLICATE: pair.looks_alike,
        Flag.SAME_GENERATOR: generators[0] == generators[1] != "",
    }
    return PairRecord(
        uid=pair_uid(source, split, name, i, j),
        source=source,
        split=split,
        group_id=name,
        cluster=cluster,
        prompt=group.prompt,
        image_index=keys,
        votes=(_as_stored(pair.votes[0]), _as_stored(pair.votes[1])),
        votes_weighted=(_as_stored(pair.weighted[0]), _as_stored(pair.weighted[1])),
        rank=(_as_stored(ranks[0]), _as_stored(ranks[1])),
        label=hard_label(pair.votes),
        p_first=_as_stored(smoothed_share(pair.votes)),
        criterion=group.criterion,
        generator=generators,
        flags=int(sum(flag for flag, is_set in flags.items() if is_set)),
    )


def _as_stored(value: float) -> float:
    return float(np.float32(value))


def _with_rows(pair: PairRecord, rows: Mapping) -> PairRecord:
    return dataclasses.replace(pair, image_index=tuple(rows[key] for key in pair.image_index))


# ---------------------------------------------------------------------------- splits


class _Clusters:
    """Captions that belong together."""

    def __init__(self, groups: Sequence[Group], near_is_same: bool):
        texts = list(dict.fromkeys(normalise(group.prompt) for group in groups))
        firsts = caption_clusters(texts).tolist() if near_is_same else range(len(texts))
        numbers = {first: number for number, first in enumerate(dict.fromkeys(firsts))}
        self._number = {t: numbers[first] for t, first in zip(texts, firsts, strict=True)}
        self._text: dict[int, str] = {}
        for text in sorted(texts):
            self._text.setdefault(self._number[text], text)

    def number(self, group: Group) -> int:
        """In the order of first occurrence."""
        return self._number[normalise(group.prompt)]

    def text(self, group: Group) -> str:
        """What decides on the split: of all captions of the cluster the first in the alphabet."""
        return self._text[self.number(group)]


def split_of(
    group: Group,
    fractions: Mapping[str, float] | None,
    seed: int,
    text: str | None = None,
    tests: Container[str] = (),
    default: Mapping[str, float] = DEFAULT_FRACTIONS,
) -> str:
    """Split of a group: its own, or by a seeded hash of its prompt cluster's text.

    Args:
      group: with its own split, if it has one.
      fractions: that cut its own split too; None leaves it as it is.
      seed: of the hash.
      text: of the cluster; None for the group's caption.
      tests: splits that are published for testing, which no fractions cut.
      default: fractions of a group without a split, where none are given.
    """
    if group.split is not None and (fractions is None or group.split in tests):
        return group.split
    fractions = default if fractions is None else fractions
    text = normalise(group.prompt) if text is None else text
    digest = hashlib.sha256(f"{seed}\n{text}".encode()).digest()
    fraction = int.from_bytes(digest[:8], "big") / 2**64
    names = sorted(fractions)  # so that the order in which they are written does not matter
    ends = itertools.accumulate(fractions[name] for name in names)
    for name, end in zip(names, ends, strict=True):
        if fraction < end:
            return name
    return names[-1]  # the fractions add up to 1 only within rounding


def _default_fractions(groups: Iterable[Group], clusters: _Clusters) -> dict[str, float]:
    """Default split fractions of groups without a split, with enough captions for validation.

    Where no fraction leaves enough for an interval, they are those of a large set.
    """
    cut = [group for group in groups if group.split is None]
    pairs = sum(len(group.pairs) for group in cut)
    captions = len({clusters.number(group) for group in cut})
    if captions * SHARES[-1] < LEAST_CLUSTERS:
        return DEFAULT_FRACTIONS
    can_tell = min(pairs / LEAST_PAIRS, captions / LEAST_CLUSTERS) / SPREAD
    share = next((share for share in SHARES if share * can_tell >= 1), SHARES[-1])
    return {"train": round(1 - 2 * share, 2), "validation": share, "test": share}


def check_fractions(fractions: Mapping[str, float] | None) -> None:
    """Raises ValueError for fractions that are not positive, do not add up to 1, or bad names."""
    if fractions is None:
        return
    for name, fraction in fractions.items():
        if not is_split_name(name):
            raise ValueError(f"split name {name!r}: {SPLIT_REMEDY}")
        if not 0 < fraction <= 1:
            raise ValueError(f"split {name!r} has the fraction {fraction}; leave out empty splits")
    if not math.isclose(sum(fractions.values()), 1, abs_tol=1e-6):
        raise ValueError(f"split fractions add up to {sum(fractions.values()):g}, not to 1")
