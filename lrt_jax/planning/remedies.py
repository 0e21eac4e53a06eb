"""Which setting to change where a run does not fit, by what is largest where it does not."""

import dataclasses
import math
from collections.abc import Iterator, Sequence

from lrt_jax.config import Config
from lrt_jax.config.checks import rows_problems
from lrt_jax.parallel.mesh import mesh_shape
from lrt_jax.planning.figures import TEMPORARIES, Figures
from lrt_jax.planning.topology import CHIPS, GIB, KNOWN, Topology
from lrt_jax.rl.tracing import COPY

# What of an update's temporaries does not grow with its rows, in bytes of its parameters: in one
# pass, and in several, whose gradients are added up. As found for 3B on eight v5e chips, in one to
# eight passes and on meshes of several shapes, of which this is the largest.
ONE_PASS, SEVERAL_PASSES = 1.0, 4.5
ONE_SAVES = 1.75  # in the same, what one pass takes less than several of as many rows each
CUT_UP = ("update", "listener", "reference")  # pieces that take a batch in microbatches
SPREAD = 1.35  # by which more chips hold more than their share, as found for 3B on 8, 16 and 32
SHARE = 0.9  # of a chip's memory that a run may take; the rest is for what is not counted here


def budget(topology: Topology) -> float:
    """Bytes that a run may take of a chip."""
    return SHARE * topology.chip.hbm * GIB


def remedies(config: Config, topology: Topology, pieces: Sequence[Figures]) -> list[str]:
    """What to change, a line each, the surest first; none where everything fits.

    Sizes after a change are estimates: the command says for sure.
    """
    room = budget(topology)
    over = sorted((x for x in pieces if x.peak > room), key=lambda x: -x.peak)
    found: dict[str, str] = {}
    for figures in over:
        for setting, size in _settings(config, topology, figures):
            if size <= room and setting not in found:
                found[setting] = (
                    f"{figures.piece.name}: {setting} makes about {size / GIB:.1f} GiB of "
                    f"{figures.peak / GIB:.1f}"
                )
                break  # the first of a piece that is enough
    if over:
        found["chips"] = _other_chips(config, topology, pieces)
    return [*found.values()]


def _settings(config: Config, topology: Topology, figures: Figures) -> Iterator[tuple[str, float]]:
    """Settings that make a piece smaller, and what it would take then; the best for it first."""
    memory, chips = figures.memory, topology.chips
    temporaries, copy = memory[TEMPORARIES], memory.get(COPY, 0.0)
    if copy > temporaries:
        yield from _tensor(config, chips, figures.peak, copy)
    if figures.piece.evaluates:
        yield from _smaller_batch(config, chips, figures)
    elif figures.piece.name.startswith(CUT_UP):
        yield from _microbatches(config, chips, figures)
        if figures.piece.name == "update" and config.model.remat != "full":
            yield "model.remat=full", figures.peak - temporaries / 2
    if "optimizer" in memory and config.optimizer.mu_dtype is None:
        yield "optimizer.mu_dtype=bfloat16", figures.peak - memory["optimizer"] / 4
    yield from _tensor(config, chips, figures.peak, copy)
    if not figures.piece.evaluates:
        yield from _smaller_batch(config, chips, figures)
    by_rows = _of_rows(config, figures)
    if (tokens := config.max_completion_length) > 1:
        yield f"max_completion_length={tokens // 2}", figures.peak - 0.35 * by_rows
    if patches := (config.data.max_patches or 0) // 2 // 64 * 64:
        yield f"data.max_patches={patches}", figures.peak - 0.15 * by_rows
    if figures.piece.name == "update":
        yield from _one_pass(config, chips, figures)


def _microbatches(config: Config, chips: int, figures: Figures) -> Iterator[tuple[str, float]]:
    """More microbatches: what rows take is divided, what gradients take stays."""
    now, kept = config.loss.microbatches, _kept(config, figures)
    rows = (figures.memory[TEMPORARIES] - kept) * now
    is_update = figures.piece.name == "update"
    after = SEVERAL_PASSES * figures.memory.get("parameters", 0.0) if is_update else 0.0
    for count in range(now + 1, config.batch_size + 1):
        if not _undivided(config, chips, microbatches=count):
            temporaries = after + rows / count
            size = figures.peak - figures.memory[TEMPORARIES] + temporaries
            yield f"loss.microbatches={count}", size


def _one_pass(config: Config, chips: int, figures: Figures) -> Iterator[tuple[str, float]]:
    """A batch of as many rows as there are now at a time, or fewer, whose gradients are not summed.

    Gradients of microbatches take as much however many rows they have.
    """
    rows = config.batch_size // config.loss.microbatches
    once = figures.peak - ONE_SAVES * figures.memory.get("parameters", 0.0)
    for count in range(rows, 1, -1) if config.loss.microbatches > 1 else ():
        if not _undivided(config, chips, batch_size=count, microbatches=1):
            size = once - _of_rows(config, figures) * (1 - count / rows)
            yield f"batch_size={count} with loss.microbatches=1", size


def _smaller_batch(config: Config, chips: int, figures: Figures) -> Iterator[tuple[str, float]]:
    """Fewer pairs a step, or an evaluation's rows at a time, as far as the chips divide them."""
    evaluates = figures.piece.evaluates
    field = "eval.batch_size" if evaluates else "batch_size"
    rows = config.eval.batch_size if evaluates else config.batch_size
    for count in range(rows - 1, 1, -1):
        if not _undivided(config, chips, **{"eval_batch_size" if evaluates else field: count}):
            yield f"{field}={count}", figures.peak - _of_rows(config, figures) * (1 - count / rows)


def _undivided(
    config: Config,
    chips: int,
    *,
    batch_size: int | None = None,
    eval_batch_size: int | None = None,
    microbatches: int | None = None,
) -> bool:
    """Whether rows would not divide over microbatches and chips."""
    pairs, parts = batch_size or config.batch_size, microbatches or config.loss.microbatches
    changed = dataclasses.replace(
        config,
        batch_size=pairs,
        loss=dataclasses.replace(config.loss, microbatches=parts),
        eval=dataclasses.replace(config.eval, batch_size=eval_batch_size or config.eval.batch_size),
    )
    odd = changed.eval.batch_size % 2
    return bool(pairs % parts or odd or any(rows_problems(changed, chips)))


def _kept(config: Config, figures: Figures) -> float:
    """Temporaries of an update that do not grow with its rows."""
    if figures.piece.name != "update":
        return 0.0
    share = ONE_PASS if config.loss.microbatches == 1 else SEVERAL_PASSES
    return min(share * figures.memory.get("parameters", 0.0), figures.memory[TEMPORARIES])


def _of_rows(config: Config, figures: Figures) -> float:
    """Bytes that grow with the rows of a batch."""
    whole = ("parameters", "optimizer", "frozen models", COPY)
    kept = sum(figures.memory.get(name, 0.0) for name in whole) + _kept(config, figures)
    return figures.peak - kept


def _tensor(config: Config, chips: int, peak: float, copy: float) -> Iterator[tuple[str, float]]:
    """A copy for sampling that more chips share."""
    tensor = config.mesh.tensor
    while copy and (tensor := 2 * tensor) <= 8 and _makes_mesh(config, chips, tensor):
        yield f"mesh.tensor={tensor}", peak - copy * (1 - config.mesh.tensor / tensor)


def _makes_mesh(config: Config, chips: int, tensor: int | None = None) -> bool:
    """Whether the axes of the mesh, of which one may be changed, come to so many chips."""
    axes = config.mesh
    try:
        mesh_shape(axes.data, axes.fsdp, tensor or axes.tensor, axes.attn_dp, devices=chips)
    except ValueError:
        return False
    return True


def _other_chips(config: Config, topology: Topology, pieces: Sequence[Figures]) -> str:
    """The smallest of the larger slices, and of those with larger chips, that may be enough."""
    more = _enough(config, topology, pieces, topology.kind)
    larger = [kind for kind in CHIPS if CHIPS[kind].hbm > topology.chip.hbm]
    others = [found for kind in larger if (found := _enough(config, topology, pieces, kind))]
    names = " or ".join(filter(None, [more, *others[:2]]))
    none = "none of the usual slices is enough for this mesh and these batches"
    return f"more or larger chips: {names or none}"


def _enough(config: Config, topology: Topology, pieces: Sequence[Figures], kind: str) -> str | None:
    """The smallest slice of a kind, of no fewer chips, that a run takes and may fit."""
    for shape in KNOWN[kind]:
        chips = math.prod(map(int, shape.split("x")))
        grows = kind == topology.kind and chips <= topology.chips
        refused = any(rows_problems(config, chips)) or not _makes_mesh(config, chips)
        if chips < topology.chips or grows or refused:
            continue
        largest = max(_on_chips(x, topology.chips / chips) for x in pieces)
        if largest <= SHARE * CHIPS[kind].hbm * GIB:
            return f"--topology={kind}:{shape}, about {largest / GIB:.1f} GiB"
    return None


def _on_chips(figures: Figures, share: float) -> float:
    """Bytes where each chip has a share of what it has now, but for the copy for sampling."""
    copy = figures.memory.get(COPY, 0.0)
    return copy + (figures.peak - copy) * (share if share == 1 else share * SPREAD)
