"""Which setting to change where a run does not fit, by what is largest where it does not."""

import math
from collections.abc import Iterator, Sequence

from lrt_jax.config import Config
from lrt_jax.planning.figures import TEMPORARIES, Figures
from lrt_jax.planning.topology import CHIPS, GIB, KNOWN, Topology
from lrt_jax.rl.tracing import COPY

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
        yield from _smaller("eval.batch_size", config.eval.batch_size, chips, figures)
    elif figures.piece.name == "update":
        yield from _microbatches(config, chips, figures)
        if config.model.remat != "full":
            yield "model.remat=full", figures.peak - temporaries / 2
    if "optimizer" in memory and config.optimizer.mu_dtype is None:
        yield "optimizer.mu_dtype=bfloat16", figures.peak - memory["optimizer"] / 4
    yield from _tensor(config, chips, figures.peak, copy)
    if not figures.piece.evaluates:
        yield from _smaller("batch_size", config.batch_size, chips, figures)
    by_rows = _of_rows(figures)
    if (tokens := config.max_completion_length) > 1:
        yield f"max_completion_length={tokens // 2}", figures.peak - 0.35 * by_rows
    if patches := (config.data.max_patches or 0) // 2 // 64 * 64:
        yield f"data.max_patches={patches}", figures.peak - 0.15 * by_rows


def _microbatches(config: Config, chips: int, figures: Figures) -> Iterator[tuple[str, float]]:
    """More microbatches: temporaries of rows shrink, two gradients stay."""
    temporaries, now = figures.memory[TEMPORARIES], config.loss.microbatches
    gradients = min(2 * figures.memory.get("parameters", 0.0), temporaries)
    for count in range(now + 1, config.batch_size + 1):
        if config.batch_size % count == 0 and config.batch_size // count % chips == 0:
            rows = (temporaries - gradients) * now / count
            yield f"loss.microbatches={count}", figures.peak - temporaries + gradients + rows


def _smaller(field: str, rows: int, chips: int, figures: Figures) -> Iterator[tuple[str, float]]:
    """Fewer rows at a time, as far as the chips divide them."""
    by_rows = _of_rows(figures)
    for count in range(rows - 1, 1, -1):
        if count % chips == 0 and count % 2 == 0:
            yield f"{field}={count}", figures.peak - by_rows * (1 - count / rows)


def _of_rows(figures: Figures) -> float:
    """Bytes that grow with the rows of a batch."""
    whole = ("parameters", "optimizer", "frozen models", COPY)
    return figures.peak - sum(figures.memory.get(name, 0.0) for name in whole)


def _tensor(config: Config, chips: int, peak: float, copy: float) -> Iterator[tuple[str, float]]:
    """A copy for sampling that more chips share."""
    tensor = config.mesh.tensor
    while copy and chips % (tensor := 2 * tensor) == 0 and tensor <= 8:
        yield f"mesh.tensor={tensor}", peak - copy * (1 - config.mesh.tensor / tensor)


def _other_chips(config: Config, topology: Topology, pieces: Sequence[Figures]) -> str:
    """The smallest of the larger slices, and of those with larger chips, that may be enough."""
    more = _enough(config, topology, pieces, topology.kind)
    larger = [kind for kind in CHIPS if CHIPS[kind].hbm > topology.chip.hbm]
    others = [found for kind in larger if (found := _enough(config, topology, pieces, kind))]
    names = " or ".join(filter(None, [more, *others[:2]]))
    return f"more or larger chips: {names or 'none of the usual slices is enough'}"


def _enough(config: Config, topology: Topology, pieces: Sequence[Figures], kind: str) -> str | None:
    """The smallest slice of a kind, of no fewer chips, on which everything may fit."""
    for shape in KNOWN[kind]:
        chips = math.prod(map(int, shape.split("x")))
        grows = kind == topology.kind and chips <= topology.chips
        if chips < topology.chips or grows or config.batch_size % chips:
            continue
        largest = max(_on_chips(x, topology.chips / chips) for x in pieces)
        if largest <= SHARE * CHIPS[kind].hbm * GIB:
            return f"--topology={kind}:{shape}, about {largest / GIB:.1f} GiB"
    return None


def _on_chips(figures: Figures, share: float) -> float:
    """Bytes where each chip has a share of what it has now, but for the copy for sampling."""
    copy = figures.memory.get(COPY, 0.0)
    return copy + (figures.peak - copy) * share
