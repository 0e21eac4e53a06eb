"""What a run of a config takes of a topology: its pieces, its step, its cost, whether it fits."""

import dataclasses
import math
import time
from collections.abc import Callable, Collection, Sequence
from typing import Any

from lrt_jax.algorithms import algorithm_of
from lrt_jax.config import Config, ConfigError
from lrt_jax.config.checks import rows_problems
from lrt_jax.models import ModelConfig
from lrt_jax.parallel.mesh import make_mesh, mesh_shape
from lrt_jax.planning.compiling import compile_piece
from lrt_jax.planning.figures import Figures, figures_of
from lrt_jax.planning.models import notes_of
from lrt_jax.planning.pieces import known_models, trace_run
from lrt_jax.planning.remedies import SHARE, budget, remedies
from lrt_jax.planning.topology import GIB, Topology
from lrt_jax.rl.tracing import Piece


@dataclasses.dataclass(frozen=True)
class Plan:
    """A run on a topology.

    Attributes:
      config: of the run.
      topology: that it would run on.
      mesh: sizes of the axes.
      figures: of the pieces.
      left_out: names of pieces that nobody asked for; what is said of the whole is then partial.
      notes: what was taken to be so.
    """

    config: Config
    topology: Topology
    mesh: dict[str, int]
    figures: Sequence[Figures]
    left_out: Sequence[str]
    notes: Sequence[str]

    @property
    def fits(self) -> bool:
        """Whether every piece leaves a tenth of the memory free."""
        room = budget(self.topology)
        return all(not x.compiled.refused and x.peak <= room for x in self.figures)

    @property
    def largest(self) -> Figures:
        """The piece that takes most memory."""
        return max(self.figures, key=lambda x: x.peak)

    @property
    def step_seconds(self) -> float | None:
        """Predicted, without wire; None where a piece would not compile or was left out."""
        step = [x for x in self.figures if not x.piece.evaluates]
        if self.left_out or any(x.seconds is None for x in step):
            return None
        return sum(x.seconds * x.piece.calls for x in step)

    @property
    def wire_seconds(self) -> float:
        """Of a step, at full link rate and if nothing overlapped."""
        step = [x for x in self.figures if not x.piece.evaluates]
        return sum(x.wire_seconds * x.piece.calls for x in step)

    @property
    def evaluation_seconds(self) -> float | None:
        """Of an evaluation, its copy of the parameters once and the rest for each batch."""
        pairs, rows = self.config.eval.pairs, self.config.eval.batch_size
        found = [x for x in self.figures if x.piece.evaluates]
        if not pairs or self.left_out or any(x.seconds is None for x in found):
            return None  # of all pairs nobody knows how many they are
        batches = math.ceil(2 * pairs / rows)
        return sum(x.seconds * (1 if x.piece.name == "eval_copy" else batches) for x in found)

    @property
    def evaluations(self) -> int:
        """Of a run: before it, after it, and on the way; those of further splits too."""
        every, steps = self.config.eval.every, self.config.steps
        return 2 * len(self.config.evaluated_splits) + ((steps - 1) // every if every else 0)

    def cost(self, pairs: int | None = None) -> dict[str, float] | None:
        """Predicted chip hours and rough dollars; None without seconds of a step.

        Args:
          pairs: of an epoch, if that is asked for.
        """
        step, config = self.step_seconds, self.config
        if not step:
            return None
        hours = self.topology.chips * step / 3600
        run = config.steps * hours
        if self.evaluation_seconds:
            run += self.evaluations * self.topology.chips * self.evaluation_seconds / 3600
        price = self.topology.chip.dollars
        found = {
            "pairs_per_second": config.batch_size / step,
            "chip_hours": run,
            "dollars": run * price,
            "dollars_per_1000_pairs": 1000 / config.batch_size * hours * price,
        }
        if pairs:
            found["epoch_chip_hours"] = pairs / config.batch_size * hours
            found["epoch_dollars"] = found["epoch_chip_hours"] * price
        return {name: float(f"{value:.4g}") for name, value in found.items()}

    def remedies(self) -> list[str]:
        """What to change where it does not fit."""
        return remedies(self.config, self.topology, self.figures)

    def to_dict(self, pairs: int | None = None) -> dict[str, Any]:
        """For JSON; times and costs are predictions."""
        step, wire = self.step_seconds, self.wire_seconds
        evaluation = self.evaluation_seconds
        flops = sum(x.chip_flops * x.piece.calls for x in self.figures if not x.piece.evaluates)
        return {
            "topology": self.topology.name,
            "slices": self.topology.slices,
            "chips": self.topology.chips,
            "mesh": self.mesh,
            "fits": self.fits,
            "partial": bool(self.left_out),
            "hbm_gib": self.topology.chip.hbm,
            "hbm_gib_usable": round(SHARE * self.topology.chip.hbm, 3),
            "hbm_gib_peak": round(self.largest.peak / GIB, 3),
            "hbm_peak_at": self.largest.piece.name,
            "step_seconds": step and float(f"{step:.4g}"),
            "wire_seconds": float(f"{wire:.4g}"),
            "flops_per_chip": flops,
            "evaluation_seconds": evaluation and float(f"{evaluation:.4g}"),
            "evaluations": self.evaluations,
            "cost": self.cost(pairs),
            "remedies": [] if self.fits else self.remedies(),
            "notes": [*self.notes],
            "pieces": [x.to_dict() for x in self.figures],
        }


def make_plan(
    config: Config,
    topology: Topology,
    *,
    pieces: Collection[str] = (),
    fresh: bool = False,
    progress: Callable[[str], None] = lambda line: None,
    resized: Callable[[ModelConfig], ModelConfig] = lambda config: config,
) -> Plan:
    """Compiles what a run compiles, and adds up what it takes.

    Args:
      config: of the run.
      topology: that it would run on.
      pieces: names of those to look at; none for all.
      fresh: compile all, whatever is known.
      progress: called with a line when a piece is compiled.
      resized: changes the sizes of models.

    Raises:
      ConfigError: rows do not divide over the chips.
      FileNotFoundError: a model is not known.
      ValueError: the mesh does not fit the chips; no such topology or piece; sizes that only the
        data know; an algorithm that does not say what it compiles; libtpu cannot be used.
    """
    axes = (config.mesh.data, config.mesh.fsdp, config.mesh.tensor, config.mesh.attn_dp)
    mesh_shape(*axes, devices=topology.chips)
    if problems := list(rows_problems(config, topology.chips)):
        raise ConfigError(problems)
    models = known_models(config, resized)
    mesh = make_mesh(*axes, devices=topology.devices())
    traced = trace_run(config, mesh, resized)
    chosen = _chosen(traced, pieces)
    figures, began = [], time.monotonic()
    for number, piece in enumerate(chosen, start=1):
        compiled, known = compile_piece(piece, f"{topology.slices} {topology.name}", fresh=fresh)
        figures.append(figures_of(piece, compiled, known, topology.chip))
        how = "known" if known else f"compiled in {compiled.seconds:.0f} s"
        progress(
            f"{number}/{len(chosen)} {piece.name}: {how}, "
            f"{figures[-1].peak / GIB:.1f} GiB; {time.monotonic() - began:.0f} s in all"
        )
    left_out = [x.name for x in traced if x not in chosen]
    notes = [*notes_of(models), *assumptions(config, traced)]
    return Plan(config, topology, dict(mesh.shape), figures, left_out, notes)


def _chosen(traced: Sequence[Piece], names: Collection[str]) -> list[Piece]:
    known = [piece.name for piece in traced]
    if wrong := [name for name in names if name not in known]:
        raise ValueError(f"--pieces: no {', '.join(wrong)} here; there are {', '.join(known)}")
    return [piece for piece in traced if not names or piece.name in names]


def assumptions(config: Config, traced: Sequence[Piece]) -> list[str]:
    """What a plan takes to be so, and what it leaves out, a sentence each."""
    found = []
    if not config.eval.pairs:
        found.append(
            "eval.pairs=0: evaluations are of all pairs, which only the data count, and are in no "
            "time or cost; give --config.eval.pairs=N to add them"
        )
    if any(piece.tokens for piece in traced):
        found.append(
            f"every rollout takes all {config.max_completion_length} tokens: it ends when the last "
            "completion does"
        )
    continues = any(x.style == "continue" for x in config.listeners) and config.uses_listener
    if continues and algorithm_of(config).needs_reference(config):
        found.append(
            "one pass answers for a `continue` listener and the reference; where a trace gives its "
            "answer away there are two"
        )
    return found
