"""Preferences collected by Rapidata, as published on the Hub: parquet, images inside.

One pair a row, in any folder: prompt, image1 and image2 (structs of bytes and path), model1 and
model2, and votes in either of two forms:

* votes_image1 and votes_image2, counts of one question; detailed_results, JSON; image1_path and
  image2_path. So are 700k_Human_Preference_Dataset_FLUX_SD3_MJ_DALLE3 and its alignment and
  coherence siblings, and human-{style,alignment,coherence}-preferences-images.
* weighted_results_image1_{criterion}, of image2 likewise, and detailed_results_{criterion}, for the
  criteria preference, alignment and coherence: the shares of the voters' summed scores. So are the
  {model}_t2i_human_preference sets.

detailed_results is a list of votes, `{votedFor, userDetails {userScores {global}, country, ...}}`:
the name of an image, and the voter. Only the name and the score are read; nothing of the voters is
kept. Our assumptions: that a single number `userScore` is the same, that an image's name in
votedFor is the last part of image1_path or image2_path, and that `preference` asks for the better
image overall. Splits of the Hub are parts of one pool.
"""

import math
from collections.abc import Callable
from pathlib import PurePosixPath
from typing import Any

from lrt_jax.data.schema import FileRef
from lrt_jax.data.sources.checking import MOST_VOTES
from lrt_jax.data.sources.files import InputFolder, SourceError
from lrt_jax.data.sources.pairwise import Judgement, Rows, cells, groups_of, numbered
from lrt_jax.data.sources.reading import Record, parquet_schema, unread_note
from lrt_jax.data.sources.source import BadRecords, Source, SourceData

CRITERIA = {
    "preference": "overall",
    "alignment": "alignment",
    "coherence": "coherence",
    "style": "style",
}
PAIR = ("prompt", "image1!", "image2!")
OPTIONAL = ("model1", "model2", "image1_path", "image2_path")
COUNTED = ("votes_image1", "votes_image2")
CLOSE = 0.01  # of shares, published in single precision

Ballots = dict[str, tuple[int, float]]  # votes and summed scores by the name of the image
Totals = tuple[int, float]


def read(folder: InputFolder, bad: BadRecords) -> SourceData:
    """Reads all parquet files; those with several criteria give a group for each.

    Raises:
      SourceError: there are none, or one is not in the published layout.
    """
    files = folder.names(r"(.*/)?[^/]*\.parquet")
    if not files:
        raise SourceError(f"{folder.root}: no *.parquet; give the folder of the data set")
    has = parquet_schema(folder, files[0]).names
    asked = [name for name in CRITERIA if f"weighted_results_image1_{name}" in has]
    if asked:
        return _read_weighted(folder, files, asked, bad)
    return _read_counted(folder, files, bad)


# ---------------------------------------------------------------------------- counted votes


def _read_counted(folder: InputFolder, files: list[FileRef], bad: BadRecords) -> SourceData:
    name = folder.root.resolve().name
    named = (criterion for criterion in CRITERIA.values() if criterion in name.lower())
    criterion = next(named, "overall")
    rows, unweighted = Rows(folder, (*PAIR, *COUNTED), (*OPTIONAL, "detailed_results")), []
    judged = rows.collect(files, lambda *row: _counted(*row, unweighted), bad)
    notes = (f"the criterion is {criterion!r}, by the folder's name {name!r}",)
    if unweighted:
        notes += (f"{len(unweighted)} pairs have no weighted votes: {unweighted[0]}",)
    groups = groups_of(numbered(judged, criterion), criterion=criterion)
    return SourceData(groups, "parquet with votes", (*notes, *unread_note(rows.unread)))


def _counted(record: Record, file: FileRef, unweighted: list[str]) -> tuple[str, Judgement]:
    votes = tuple(record.count(name) for name in COUNTED)
    try:
        weighted = _weighted(record, votes)
    except SourceError as error:  # the votes are known without
        unweighted.append(str(error))
        weighted = None
    return _judgement(record, file, votes, weighted)


def _weighted(record: Record, votes: tuple[float, float]) -> tuple[float, float]:
    """The summed scores of each image's voters."""
    ballots = _ballots(record, "detailed_results")
    paths = [PurePosixPath(str(record.fields.get(f"image{i}_path"))).name for i in (1, 2)]
    named = {PurePosixPath(name).name: totals for name, totals in ballots.items()}
    if paths[0] != paths[1] and set(named) <= set(paths):
        ways = [tuple(named.get(path, (0, 0.0)) for path in paths)]
    else:
        ways = _ways(ballots)
    ways = [way for way in ways if (way[0][0], way[1][0]) == votes]
    if len(ways) != 1:
        record.fail(
            "detailed_results", "does not say which image got which votes", "it is passed over"
        )
    return ways[0][0][1], ways[0][1][1]


# ---------------------------------------------------------------------------- weighted results


def _read_weighted(
    folder: InputFolder, files: list[FileRef], asked: list[str], bad: BadRecords
) -> SourceData:
    columns = {name: _columns(name) for name in CRITERIA}
    groups, rows = [], None
    for name in asked:
        others = [f"{c}!" for other in CRITERIA if other != name for c in columns[other]]
        rows = Rows(folder, (*PAIR, *columns[name]), (*OPTIONAL, *others))
        judged = rows.collect(files, _judge_by(name), bad)
        groups += groups_of(numbered(judged, CRITERIA[name]), criterion=CRITERIA[name])
    notes = (f"criteria, by their columns: {', '.join(CRITERIA[name] for name in asked)}",)
    return SourceData(groups, "parquet with weighted results", notes + unread_note(rows.unread))


def _columns(name: str) -> tuple[str, ...]:
    shares = (f"weighted_results_image{i}_{name}" for i in (1, 2))
    return (*shares, f"detailed_results_{name}")


def _judge_by(name: str) -> Callable[[Record, FileRef], tuple[str, Judgement]]:
    *shares, details = _columns(name)

    def read(record: Record, file: FileRef) -> tuple[str, Judgement]:
        first, second = _by_share(record, [record.number(share) for share in shares], details)
        return _judgement(record, file, (first[0], second[0]), (first[1], second[1]))

    return read


def _by_share(record: Record, shares: list[float], details: str) -> tuple[Totals, Totals]:
    """Votes and scores of the first image and of the second: those that give the shares."""
    if min(shares) < 0 or abs(sum(shares) - 1) > CLOSE:
        record.fail(
            details.replace("detailed", "weighted"),
            f"is {shares}",
            "expected two shares that add up to 1",
        )
    ways = [way for way in _ways(_ballots(record, details)) if abs(_share(way) - shares[0]) < CLOSE]
    if not ways or (len(ways) > 1 and ways[0][0][0] != ways[0][1][0]):
        record.fail(details, "does not say which image got which votes", f"the shares are {shares}")
    return ways[0]


def _share(way: tuple[Totals, Totals]) -> float:
    total = way[0][1] + way[1][1]
    return way[0][1] / total if total else math.nan


# ---------------------------------------------------------------------------- both


def _ballots(record: Record, column: str) -> Ballots:
    ballots: Ballots = {}
    votes = record.parsed(column)
    if not isinstance(votes, list):
        record.fail(column, f"holds a {type(votes).__name__}", "expected a list of votes")
    for vote in votes:
        name, score = (vote.get("votedFor"), _score(vote)) if isinstance(vote, dict) else (None, 0)
        if not isinstance(name, str) or score is None:
            record.fail(column, "has a vote without votedFor or userScores", "fetch it again")
        count, total = ballots.get(name, (0, 0.0))
        ballots[name] = count + 1, total + score
    if len(ballots) > 2:
        record.fail(column, f"names {len(ballots)} images", "expected two")
    return ballots


def _score(vote: dict[str, Any]) -> float | None:
    for holder in (vote.get("userDetails"), vote):
        fields = holder if isinstance(holder, dict) else {}
        score = fields.get("userScores", fields.get("userScore"))
        score = score.get("global") if isinstance(score, dict) else score
        is_number = isinstance(score, int | float) and not isinstance(score, bool)
        if is_number and 0 <= score <= MOST_VOTES:
            return float(score)
    return None


def _ways(ballots: Ballots) -> list[tuple[Totals, Totals]]:
    """The two ways to say whose votes are the first image's."""
    first, second = (*ballots.values(), (0, 0.0), (0, 0.0))[:2]
    return [(first, second), (second, first)] if first != second else [(first, second)]


def _judgement(record, file, votes, weighted) -> tuple[str, Judgement]:
    prompt = record.caption()
    models = tuple(record.fields.get(f"model{i}") for i in (1, 2))
    generators = models if all(isinstance(model, str) for model in models) else None
    images = cells(file, record, "image1", "image2")
    return prompt, Judgement(prompt, images, votes, generators, weighted)


SOURCE = Source(
    name="rapidata",
    read=read,
    hub_id="Rapidata/human-style-preferences-images",
    licence="CDLA-Permissive-2.0",
    gigabytes=18,
    patterns=("*.parquet",),
)
