"""Pieces and figures that are made up, for tests that compile nothing large."""

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from lrt_jax.models.api import Flops
from lrt_jax.parallel.mesh import make_mesh
from lrt_jax.planning.compiled_text import Collective, Program
from lrt_jax.planning.compiling import Compiled
from lrt_jax.planning.figures import OUTPUTS, TEMPORARIES, Figures
from lrt_jax.planning.topology import GIB
from lrt_jax.rl.tracing import Piece, Trace

MB = 2**20


def mesh_of_four() -> Mesh:
    return make_mesh(fsdp=4, devices=jax.devices()[:4])


def small_piece(**alive) -> Piece:
    """A product and its sum; what it is given third it does not read, and the fourth it changes.

    Its arguments are 4 MB each on a chip.
    """
    trace = Trace(mesh_of_four())
    product = jax.jit(lambda x, y, unread, z: (x @ y.T, z + 1), donate_argnums=3)
    for name, tree in alive.items():
        trace.hold(name, tree)
    arguments = [trace.rows((2048, 2048), "float32") for _ in range(4)]
    trace.call("product", product, *arguments, flops=Flops(products=2.0 * 2048**3))
    return trace.pieces[0]


def program(**changes) -> Program:
    collectives = (Collective("all-gather", 4, 1e9, 2), Collective("all-gather", 2, 1e9, 1))
    return Program(**{"cycles": 1.5e9, "collectives": collectives, "kernels": {}} | changes)


def compiled(piece: Piece, **changes) -> Compiled:
    """As a compiler would say it of the small piece; 4 MB of its results lie where they were."""
    facts = {
        "seconds": 1.0,
        "arguments": 12 * MB,
        "temporaries": 5 * MB,
        "outputs": 8 * MB,
        "aliased": 4 * MB,
        "read_arguments": (True, True, False, True),
        "program": program(),
    }
    return Compiled(**facts | changes)


def figures(name: str, *, evaluates: bool = False, **gib: float) -> Figures:
    """Of a piece that takes so many GiB, by what they are."""
    rows = Trace(mesh_of_four()).rows((4,), "float32")
    traced = jax.jit(jnp.sum).trace(rows)
    piece = Piece(name, traced, [rows], {}, {}, 1e15, 0.0, evaluates=evaluates)
    memory = {TEMPORARIES: 0.0, OUTPUTS: 0.0}
    memory |= {x.replace("_", " "): size * GIB for x, size in gib.items()}
    facts = {"compute_seconds": 1.0, "hbm_seconds": 0.5, "wire_seconds": 0.25}
    return Figures(
        piece=piece,
        compiled=compiled(piece),
        known=False,
        memory=memory,
        peak=sum(memory.values()),
        resident=0.0,
        chip_flops=1e13,
        kernel_seconds=0.0,
        seconds=2.0,
        unknown_kernels=(),
        **facts,
    )
