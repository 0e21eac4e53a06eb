"""Run as a process of its own by `test_tpu.py`: what the TPU's compiler says, read.

Prints JSON: by topology figures of products, a plan of one layer at full width, and what the
rollout moves between chips for each token.
"""

import dataclasses
import json
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from lrt_jax.config import Config, parse_config
from lrt_jax.config.presets import preset_config
from lrt_jax.models.api import Flops
from lrt_jax.parallel.mesh import make_mesh
from lrt_jax.planning.compiling import compile_piece
from lrt_jax.planning.figures import Figures, figures_of
from lrt_jax.planning.plan import Plan, make_plan
from lrt_jax.planning.topology import Topology, compile_for_tpus
from lrt_jax.rl.tracing import Trace

SIDE = 8192  # of the products
TOPOLOGIES = {"v5e": "v5e:4x4", "v5p": "v5p:2x2x4"}
TOKENS, MICROBATCHES = 128, 2
SMALLER = {
    "data.source": "scenes",
    "data.max_patches": 64,
    "data.prompt_tokens": 128,
    "data.judge_tokens": 128,
    "max_completion_length": TOKENS,
    "batch_size": 32,
    "group_size": 2,
    "loss.microbatches": MICROBATCHES,
    "eval.batch_size": 16,
}
PIECES = ("encode", "rollout", "reference_listener", "update")


def main() -> None:
    compile_for_tpus()
    found = {}
    for kind, name in TOPOLOGIES.items():
        topology = Topology(name)
        mesh = Mesh(topology.devices()[:1], ("fsdp",))
        plan = make_plan(config(), topology, pieces=PIECES, fresh=True, resized=one_layer)
        found[kind] = {
            "product": product(mesh, topology, times=1).to_dict(),
            "five products": product(mesh, topology, times=5).to_dict(),
            "ten products": product(mesh, topology, times=10).to_dict(),
            "plan": plan.to_dict(),
            "for each token": for_each_token(plan),
        }
    topology = Topology("v5e:4x4")
    found["refused"] = huge(Mesh(topology.devices()[:1], ("fsdp",)), topology).to_dict()
    print(json.dumps(found))


def config() -> Config:
    values = preset_config("7b")
    values.update_from_flattened_dict(SMALLER)
    return parse_config(values)


def one_layer(sizes):
    """Of decoder and tower, at full width."""
    text = dataclasses.replace(sizes.text, num_layers=1)
    vision = dataclasses.replace(sizes.vision, depth=1, full_attention_layers=(0,))
    return dataclasses.replace(sizes, text=text, vision=vision)


def for_each_token(plan: Plan) -> list[dict[str, Any]]:
    """Collectives of the rollout that run for every token; `size` is that of one turn."""
    [rollout] = [x for x in plan.figures if x.piece.name == "rollout"]
    collectives = rollout.compiled.program.collectives
    return [dataclasses.asdict(x) for x in collectives if x.times >= TOKENS]


def product(mesh: Mesh, topology: Topology, *, times: int) -> Figures:
    """So many products, one after the other."""

    def multiply(x, weights):
        return jax.lax.scan(lambda x, w: (x @ w, None), x, weights)[0]

    trace = Trace(make_mesh(devices=mesh.devices.flat))
    x = trace.replicated((SIDE, SIDE), jnp.bfloat16)
    weights = trace.replicated((times, SIDE, SIDE), jnp.bfloat16)
    trace.call("product", jax.jit(multiply), x, weights, flops=Flops(2.0 * times * SIDE**3))
    return read(trace, topology)


def huge(mesh: Mesh, topology: Topology) -> Figures:
    """A product of a matrix that no chip holds."""
    trace = Trace(make_mesh(devices=mesh.devices.flat))
    x = trace.replicated((2**17, 2**17), jnp.bfloat16)
    trace.call("huge", jax.jit(lambda x: x @ x), x, flops=Flops())
    return read(trace, topology)


def read(trace: Trace, topology: Topology) -> Figures:
    [piece] = trace.pieces
    compiled, known = compile_piece(piece, topology.name, fresh=True)
    return figures_of(piece, compiled, known, topology.chip)


if __name__ == "__main__":
    main()
