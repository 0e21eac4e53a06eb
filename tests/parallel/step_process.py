"""The pieces of a step on some meshes, in one of several processes; run by test_same_step.py.

    python -m tests.parallel.step_process FOLDER ADDRESS COUNT INDEX

FOLDER has a `model`, `recorded.pickle` with the rows of a batch, and `order.json` with meshes. The
first process writes what came of each mesh to `DATA-FSDP-TENSOR.pickle`.
"""

import functools
import json
import pickle
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from lrt_jax.config import LossConfig
from lrt_jax.models import VisionLanguageModel, load_model, param_shardings
from lrt_jax.parallel import processes
from lrt_jax.parallel.collectives import (
    all_gather_rows,
    batch_sharding,
    rows_to_host,
    shard_local_batch,
)
from lrt_jax.parallel.mesh import make_mesh
from lrt_jax.rl.frozen import Reading, frozen_pass
from lrt_jax.rl.learner import policy_gradient, split_frozen
from lrt_jax.rl.losses import mean_metrics
from lrt_jax.rl.rollout import SamplingConfig, completion_keys, sample_completions

LOSS = LossConfig("dapo", beta=0.05, microbatches=2)
SAMPLING = SamplingConfig(max_tokens=6, stop_ids=(3,))


def step(model: VisionLanguageModel, params: dict, recorded, pairs: np.ndarray, mesh: Mesh) -> dict:
    """Gradient, SGD update, metrics, a listener's verdicts and samples, all as NumPy."""
    rows, everywhere = batch_sharding(mesh), NamedSharding(mesh, PartitionSpec())
    learner = model.copy(sharding=rows)
    trainable, frozen = split_frozen(params, ["vision"])
    experience = shard_local_batch(recorded, mesh)

    def update(trainable, experience):
        grads, sums, _ = policy_gradient(
            learner, trainable, frozen, experience, jnp.bool_(False), LOSS
        )
        updates, _ = optax.sgd(0.1).update(grads, optax.sgd(0.1).init(trainable))
        return grads, optax.apply_updates(trainable, updates), mean_metrics(sums)

    grads, updated, metrics = jax.jit(update, out_shardings=everywhere)(trainable, experience)

    position = jnp.maximum(experience.length - 1, 0)
    parts = 1 if mesh.size == 1 else LOSS.microbatches
    ask = functools.partial(
        frozen_pass, learner, answer_ids=(7, 8), temperature=1.0, microbatches=parts
    )
    reading = Reading(experience.prompt, experience.tokens, position)
    shorter = Reading(experience.prompt, experience.tokens[..., :4], jnp.minimum(position, 3))
    readings = (reading, shorter)
    verdicts, logps = jax.jit(ask, out_shardings=rows)(params, experience.features, readings)

    sampler = model.copy(sharding=batch_sharding(mesh, "sample"))
    copied = jax.jit(lambda x: x, out_shardings=param_shardings(model, mesh, "sample"))(params)

    def sample(params, prompt, features, pairs):
        prompt, features, pairs = jax.lax.with_sharding_constraint(
            (prompt, features, pairs), sampler.sharding
        )
        keys = completion_keys(jax.random.key(5), pairs, pairs % 2 == 0, experience.tokens.shape[1])
        drawn = sample_completions(sampler, params, prompt, features, keys, SAMPLING)
        return jax.lax.with_sharding_constraint(drawn, rows)

    drawn = jax.jit(sample)(
        copied, experience.prompt, experience.features, shard_local_batch(pairs, mesh)
    )
    heard, drawn = all_gather_rows(rows_to_host(((*verdicts, logps), drawn)), mesh)
    return {
        **jax.device_get({"grads": grads, "updated": updated, "metrics": metrics}),
        "heard": heard,
        "tokens": drawn.tokens,
        "sampler_logps": drawn.logps,
    }


def main(folder: Path) -> None:
    """All meshes of the order."""
    rows = pickle.loads((folder / "recorded.pickle").read_bytes())
    share = len(rows.advantages) // jax.process_count()
    mine = slice(processes.index() * share, (processes.index() + 1) * share)
    recorded = jax.tree.map(lambda x: x[mine], rows)
    pairs = np.arange(len(rows.advantages), dtype=np.int32)[mine]
    for sizes in json.loads((folder / "order.json").read_text()):
        mesh = make_mesh(*sizes, devices=jax.devices()[: int(np.prod(sizes))])
        model, params = load_model(folder / "model", mesh=mesh)
        found = step(model, params, recorded, pairs, mesh)
        if processes.is_first():
            name = "-".join(map(str, sizes))
            (folder / f"{name}.pickle").write_bytes(pickle.dumps(found))


if __name__ == "__main__":
    address, count, index = sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    if count > 1:
        processes.initialize(address, count, index)
    with processes.together():
        main(Path(sys.argv[1]))
