"""A plan for people: a table of its pieces, and what comes of them."""

from collections.abc import Iterator, Sequence

from lrt_jax.planning.figures import Figures
from lrt_jax.planning.plan import Plan
from lrt_jax.planning.remedies import budget
from lrt_jax.planning.topology import GIB

COLUMNS = (
    *("piece", "compiling s", "HBM GiB", "of it own", "seconds", "of peak", "bound by"),
    *("wire GB", "wire s"),
)


def plan_table(plan: Plan, pairs: int | None = None) -> str:
    """All of it, in lines. Times are predictions of the compiler's, and no TPU was asked."""
    rows = [COLUMNS, *(_row(figures) for figures in plan.figures)]
    return "\n".join([*_aligned(rows), "", *_summary(plan, pairs)])


def _row(figures: Figures) -> tuple[str, ...]:
    seconds, share, calls = figures.seconds, figures.share_of_peak, figures.piece.calls
    wire = sum(kind["bytes"] for kind in figures.wire.values())
    return (
        figures.piece.name + (f" x {calls}" if calls > 1 else ""),
        f"{figures.compiled.seconds:.0f}",
        f"{figures.peak / GIB:.1f}",
        f"{(figures.peak - figures.resident) / GIB:.1f}",
        "-" if seconds is None else f"{seconds:.3f}",
        "-" if not share else f"{share:.0%}",
        "-" if seconds is None else figures.bound_by,
        "-" if seconds is None else f"{wire / 1e9:.1f}",
        "-" if seconds is None else f"{figures.wire_seconds:.2f}",
    )


def _aligned(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for name, *others in rows:
        cells = [x.rjust(width) for x, width in zip(others, widths[1:], strict=True)]
        yield "  ".join([name.ljust(widths[0]), *cells])


def _summary(plan: Plan, pairs: int | None) -> Iterator[str]:
    mesh = " x ".join(f"{axis} {size}" for axis, size in plan.mesh.items())
    chip, largest = plan.topology.chip, plan.largest
    slices = f"{plan.topology.slices} x " if plan.topology.slices > 1 else ""
    yield f"{slices}{plan.topology.name}: {plan.topology.chips} chips, {mesh}"
    yield (
        f"memory: {largest.peak / GIB:.1f} GiB at {largest.piece.name}, of "
        f"{budget(plan.topology) / GIB:.1f} ({chip.hbm:g} but for a tenth): "
        f"{'fits' if plan.fits else 'does not fit'}"
    )
    parts = sorted(largest.memory.items(), key=lambda item: -item[1])
    listed = [f"{name} {size / GIB:.2f}" for name, size in parts if size > largest.peak / 50]
    yield f"  {', '.join(listed)}"
    if not plan.fits:
        yield from (f"  change: {line}" for line in plan.remedies())
    yield from _time(plan, pairs)
    for figures in plan.figures:
        if left_out := figures.to_dict()["not_understood"]:
            yield f"note: {figures.piece.name}: not in its figures: {left_out}"
    yield from (f"note: {note}" for note in plan.notes)
    if plan.left_out:
        yield f"note: partial, without {', '.join(plan.left_out)}"


def _time(plan: Plan, pairs: int | None) -> Iterator[str]:
    step, cost = plan.step_seconds, plan.cost(pairs)
    if not step or not cost:
        return
    yield (
        f"step: {step:.1f} s predicted, plus {plan.wire_seconds:.1f} s of wire as far as nothing "
        f"overlaps; {cost['pairs_per_second']:.2f} pairs a second"
    )
    if evaluation := plan.evaluation_seconds:
        yield f"evaluation: {evaluation:.0f} s predicted, {plan.evaluations} in a run"
    epoch = f"; an epoch ${cost['epoch_dollars']:,.0f}" if pairs else ""
    yield (
        f"run of {plan.config.steps:,} steps: {cost['chip_hours']:,.0f} chip hours, about "
        f"${cost['dollars']:,.0f} (${cost['dollars_per_1000_pairs']:.2f} per 1,000 pairs{epoch}), "
        "wire left out"
    )
