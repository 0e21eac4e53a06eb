"""A build report as a page to read, `build_report.md`."""

from collections.abc import Iterable, Iterator, Sequence

from lrt_jax.data.plain_text import in_markdown
from lrt_jax.data.preparation.report import BuildReport

SHOWN = 20  # of a list that may be long
LEFT_OUT = {  # what to call fields of a report that count what did not become a pair of its own
    "bad_records": "bad records left out",
    "dropped": "image files dropped",
    "dropped_pairs": "pairs dropped with them",
    "duplicate_images": "image files with the bytes of another",
    "near_duplicates": "images that look the same as another",
    "self_pairs": "pairs of an image with itself left out",
    "merged_pairs": "judgements added to pairs already seen",
    "conflicts": "pairs with contradictory judgements",
    "leaked_pairs": "pairs near a test or validation set left out",
    "images_in_several_splits": "images under captions of several splits",
    "clusters_in_several_splits": "prompt clusters in several of the source's splits",
}


def page(report: BuildReport) -> str:
    """The page, in Markdown."""
    parts = [_head(report), *_found(report), *_left_out(report), *_leaks(report)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _head(report: BuildReport) -> str:
    rows = [
        (name, f"{s['groups']:,}", f"{s['clusters']:,}", f"{s['pairs']:,}", f"{s['ties']:,}")
        for name, s in report.splits.items()
    ]
    notes = "".join(f"\n* {in_markdown(note)}" for note in report.notes)
    return (
        f"# {report.source}: {report.pairs:,} pairs of {report.images:,} images\n\n"
        f"Read from {report.layout}; {report.groups:,} groups, {report.ties:,} ties.\n{notes}\n\n"
        + _table(("split", "groups", "prompt clusters", "pairs", "ties"), rows)
    )


def _found(report: BuildReport) -> Iterator[str]:
    yield "## What can be had without looking\n\n" + _table(
        ("predictor", "accuracy on untied pairs"),
        [
            ("the image listed first wins", _share(report.first_listed_wins)),
            ("who made an image, or its place in the group", _share(report.generator_prior)),
        ],
    )
    if report.same_generator:
        yield (
            f"{report.same_generator:,} pairs have two images of one model: there this cannot help."
        )
    yield "## Judgements\n\n" + _table(("votes of a pair", "pairs"), report.votes.items())
    yield _table(("difference of votes, as a share of them", "pairs"), report.margins.items())
    if set(report.criteria) != {"overall"}:
        yield _table(("criterion", "pairs"), report.criteria.items())
    yield "## Images\n\n" + _table(
        ("patches of 14 pixels, at most", "images"), report.sizes.items()
    )
    if report.shapes:
        yield f"{report.shapes:,} pairs have images of different shapes."
    lengths = report.caption_lengths.items()
    yield "## Captions\n\n" + _table(("characters", ""), [(k, f"{v:,.0f}") for k, v in lengths])
    if report.largest_cluster > 1:
        yield f"At most {report.largest_cluster:,} captions belong together."
    yield _list(f"{len(report.long_captions):,} are very long", report.long_captions)
    yield _list(
        f"{len(report.changed_images):,} images that decoding changes",
        (f"{name}: {change}" for name, change in report.changed_images.items()),
    )


def _left_out(report: BuildReport) -> Iterator[str]:
    counted = {name: count for name, count in left_out(report).items() if count}
    if counted:
        yield "## Merged and left out\n\n" + _table(("what", "how many"), counted.items())
    near = (f"{one}: as {kept}" for one, kept in report.near_images.items())
    yield _list("Images that look the same as another, which stands for them", near)
    yield _list("Records", report.bad_records)
    yield _list("Images", (f"{name}: {why}" for name, why in report.dropped_images.items()))


def _leaks(report: BuildReport) -> Iterator[str]:
    yield "## Test sets"
    rows = [(name, x["captions"], x["images"], x["pairs"]) for name, x in report.leaks.items()]
    if rows:
        names = (
            "test or validation set",
            "captions near it",
            "images near it",
            "pairs left out for it",
        )
        yield _table(names, rows)
    for name, found in report.leaks.items():
        near = (f"{x['cosine']:.2f}: {x['caption']} ~ {x['test']}" for x in found["near"])
        yield _list(f"Near {name}", near)
    if report.unchecked:
        yield (
            f"Not compared with: {', '.join(report.unchecked)}. Prepare a public test set, and "
            "name its folder in --test_sets."
        )


def left_out(report: BuildReport, fields: Iterable[str] = tuple(LEFT_OUT)) -> dict[str, int]:
    """What did not become a pair of its own, by what to call it."""
    found = {name: getattr(report, name) for name in fields}
    return {LEFT_OUT[name]: len(x) if isinstance(x, tuple) else x for name, x in found.items()}


def _share(value: float | None) -> str:
    return "cannot be said" if value is None else f"{value:.1%}"


def _table(names: Sequence[str], rows: Iterable[Sequence]) -> str:
    lines = [names, ["---"] * len(names), *rows]
    return "\n".join("| " + " | ".join(_cell(x) for x in line) + " |" for line in lines)


def _cell(value: str | int) -> str:
    return f"{value:,}" if isinstance(value, int) else in_markdown(value)


def _list(title: str, lines: Iterable[str]) -> str:
    lines = list(lines)
    if not lines:
        return ""
    more = [f"* ... and {len(lines) - SHOWN:,} more, see build_report.json"] * (len(lines) > SHOWN)
    return "\n".join([f"{title}:\n", *(f"* {_cell(line)}" for line in lines[:SHOWN]), *more])
