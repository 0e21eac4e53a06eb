"""What a compiled piece takes of a chip: memory with all that lives beside it, time, wire."""

import collections
import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import jax

from lrt_jax.planning.compiled_text import Program
from lrt_jax.planning.compiling import Compiled
from lrt_jax.planning.topology import GIB, Chip
from lrt_jax.rl.tracing import Piece

KERNEL_SHARE = 0.5  # of the peak that attention kernels are taken to reach
BACKWARD = 2.5  # attention's backward pass in forward ones: five products in place of two
TEMPORARIES, OUTPUTS, OTHERS = "temporaries", "outputs", "other arguments"


@dataclasses.dataclass(frozen=True)
class Figures:
    """A piece on one chip. Seconds are predictions; bytes are the compiler's and our sums.

    Attributes:
      piece: that they are of.
      compiled: what the compiler said.
      known: whether that was known before.
      memory: bytes by what they are: what lives meanwhile, temporaries, outputs.
      peak: bytes of HBM while it runs.
      resident: bytes of them that are none of its own.
      chip_flops: model FLOPs on a chip.
      compute_seconds: these at the chip's peak.
      hbm_seconds: what is read and written at least, at full bandwidth. Arguments count whole, an
        embedding too that is not the head, of which only rows are read.
      wire_seconds: what is sent, at full link rate; in none of the others.
      kernel_seconds: of attention kernels; in `seconds` too.
      seconds: that it takes, without wire; None where it would not compile.
      unknown_kernels: kernels whose time nobody knows; they count nothing.
    """

    piece: Piece
    compiled: Compiled
    known: bool
    memory: Mapping[str, float]
    peak: float
    resident: float
    chip_flops: float
    compute_seconds: float
    hbm_seconds: float
    wire_seconds: float
    kernel_seconds: float
    seconds: float | None
    unknown_kernels: tuple[str, ...]

    @property
    def roofline_seconds(self) -> float:
        """The largest lower bound; but for `hbm_seconds` of an embedding no chip can be faster."""
        return max(self._bounds.values())

    @property
    def bound_by(self) -> str:
        """What keeps it from being faster: `compute`, `hbm` or `wire`."""
        return max(self._bounds, key=self._bounds.__getitem__)

    @property
    def share_of_peak(self) -> float | None:
        """Of the chip's FLOPs, in the predicted time without wire."""
        return self.compute_seconds / self.seconds if self.seconds else None

    @property
    def wire(self) -> dict[str, dict[str, float]]:
        """Count and bytes by kind of collective."""
        found: dict[str, dict[str, float]] = {}
        for one in self.compiled.program.collectives if self.compiled.program else ():
            kind = found.setdefault(one.kind, {"count": 0, "bytes": 0.0})
            kind["count"] += one.times
            kind["bytes"] += one.wire
        return found

    @property
    def _bounds(self) -> dict[str, float]:
        return {
            "compute": self.compute_seconds,
            "hbm": self.hbm_seconds,
            "wire": self.wire_seconds,
        }

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        c, program = self.compiled, self.compiled.program
        wire = sum(kind["bytes"] for kind in self.wire.values())
        return {
            "name": self.piece.name,
            "calls": self.piece.calls,
            "compile_seconds": c.seconds,
            "from_cache": self.known,
            "hbm_gib_peak": _gib(self.peak),
            "arguments_gib": _gib(c.arguments),
            "temporaries_gib": _gib(c.temporaries),
            "outputs_gib": _gib(c.outputs),
            "aliased_gib": _gib(c.aliased),
            "resident_gib": _gib(self.resident),
            "memory_gib": {name: _gib(size) for name, size in self.memory.items()},
            "flops": self.piece.flops,
            "flops_per_chip": self.chip_flops,
            "predicted_seconds": _rounded(self.seconds),
            "kernel_seconds": _rounded(self.kernel_seconds),
            "roofline_seconds": _rounded(self.roofline_seconds),
            "bound_by": self.bound_by,
            "share_of_peak": _rounded(self.share_of_peak),
            "collectives": {
                kind: {"count": x["count"], "gb": round(x["bytes"] / 1e9, 3)}
                for kind, x in self.wire.items()
            },
            "wire_gb": round(wire / 1e9, 3),
            "wire_seconds": _rounded(self.wire_seconds),
            "kernels": dict(program.kernels) if program else {},
            "not_understood": _not_understood(program, self.unknown_kernels),
            "assumed_loops": program.assumed_loops if program else 0,
            "refused": c.refused,
        }


def figures_of(piece: Piece, compiled: Compiled, known: bool, chip: Chip) -> Figures:
    """Adds up what a compiled piece takes."""
    chips = piece.arguments[0].sharding.mesh.size
    memory = dict(_memory(piece, compiled))
    resident = bytes_of(_beside(piece, compiled.read_arguments))
    own = compiled.arguments + compiled.temporaries + compiled.outputs - compiled.aliased
    if compiled.refused:
        least = bytes_of(piece.arguments) + compiled.temporaries
        own = max(compiled.wanted, least, chip.hbm * GIB)  # the compiler need not say how much
    program = compiled.program
    flops = piece.flops / chips
    kernels, unknown = 0.0, ()
    if program:
        passes, unknown = _attention_passes(program.kernels)
        kernels = passes * piece.attention / chips / (chip.flops * KERNEL_SHARE)
    wire = sum(x.wire for x in program.collectives) if program else 0.0
    return Figures(
        piece=piece,
        compiled=compiled,
        known=known,
        memory=memory,
        peak=own + resident,
        resident=resident,
        chip_flops=flops,
        compute_seconds=flops / chip.flops,
        hbm_seconds=_traffic(piece, compiled, chips) / chip.bandwidth,
        wire_seconds=wire / chip.link,
        kernel_seconds=kernels,
        seconds=program.cycles / chip.clock + kernels if program else None,
        unknown_kernels=unknown,
    )


def bytes_of(leaves: Iterable[jax.ShapeDtypeStruct]) -> float:
    """On a chip."""
    return sum(_bytes(leaf) for leaf in leaves)


def _bytes(leaf: jax.ShapeDtypeStruct) -> float:
    return math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize


def _beside(piece: Piece, read: Iterable[bool]) -> Iterator[jax.ShapeDtypeStruct]:
    """What lives while a piece runs and is none of the arguments that it reads; each once."""
    own = {id(leaf) for leaf, is_read in zip(piece.arguments, read, strict=True) if is_read}
    alive = {id(leaf): leaf for leaf in [*jax.tree.leaves(piece.alive), *piece.arguments]}
    yield from (leaf for key, leaf in alive.items() if key not in own)


def _memory(piece: Piece, compiled: Compiled) -> Iterator[tuple[str, float]]:
    """Bytes by what they are; what has several names counts under its first."""
    seen: set[int] = set()
    for name, tree in {**piece.alive, OTHERS: list(piece.arguments)}.items():
        new = {id(leaf): leaf for leaf in jax.tree.leaves(tree) if id(leaf) not in seen}
        seen |= new.keys()
        if size := bytes_of(new.values()):
            yield name, size
    temporaries = compiled.temporaries
    if compiled.refused and not temporaries:  # the compiler said only what it wanted in all
        temporaries = max(compiled.wanted - bytes_of(piece.arguments), 0)
    yield TEMPORARIES, temporaries
    yield OUTPUTS, compiled.outputs - compiled.aliased


def _attention_passes(kernels: Mapping[str, int]) -> tuple[float, tuple[str, ...]]:
    """Forward passes over all attention that kernels make, and kernels of other kinds.

    A layer may call several kernels, each for a part of its attention. With a backward pass, which
    runs once, forward kernels run as much more often as layers are computed anew; without one they
    run once. All attention counts where any is in kernels.
    """
    counts: collections.Counter[str] = collections.Counter()
    unknown = []
    for name, times in kernels.items():
        if not any(word in name for word in ("attention", "splash", "flash", "mha", "mqa")):
            unknown.append(name)
        else:
            kind = "dkv" if "dkv" in name else "dq" if "dq" in name else "forward"
            counts[kind] += times
    if not counts:
        return 0.0, tuple(unknown)
    backward = counts["dkv"] or counts["dq"]
    forward = counts["forward"] / backward if backward else 1.0
    return forward + (BACKWARD if backward else 0.0), tuple(unknown)


def _traffic(piece: Piece, compiled: Compiled, chips: int) -> float:
    """Bytes that go between HBM and the cores of a chip at least, and all of an embedding.

    Arguments are read once and results written once; a loop over tokens reads all parameters, which
    its arguments are almost alone, and the caches at every turn. An embedding that is not the head
    too counts whole with them, although a token reads a row of it.
    """
    once = compiled.arguments + compiled.outputs
    if piece.tokens is None:
        return once
    return once + piece.tokens * (compiled.arguments + piece.cache_bytes / chips)


def _not_understood(program: Program | None, kernels: Iterable[str]) -> dict[str, Any]:
    """What the times and bytes of a piece leave out, by name; empty where nothing is."""
    found: dict[str, Any] = {"kernels": [*kernels]}
    if program:
        for name in ("unknown_loops", "unknown_groups", "unknown_arrays", "without_estimate"):
            found[name] = getattr(program, name)
    return {name: value for name, value in found.items() if value}


def _gib(size: float) -> float:
    return round(size / GIB, 3)


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.4g}")
