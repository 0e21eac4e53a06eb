"""Times the attention kernels and a training step of 3B's shapes on one accelerator.

    benchmarks/accelerator.sh --json=figures.json

Weights and batch are random, and no stop token ends a completion, so that every step does the same
work. What is timed are the functions that a run jits: the copy for sampling, the images' features,
the rollout, the reference's pass, and the update. Kernels are held against plain attention first,
values and gradients: where they are further from it than `TOLERANCE` the exit code is 1.
"""

import dataclasses
import functools
import json
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from benchmarks import outputs
from lrt_jax.algorithms.optimizer import make_optimizer
from lrt_jax.algorithms.state import initial_state
from lrt_jax.algorithms.update import Updater
from lrt_jax.cli import commands
from lrt_jax.config import LossConfig, OptimizerOptions
from lrt_jax.data.schema import Batch, Target
from lrt_jax.models import Images, Prompt, init_params, param_shardings
from lrt_jax.models.attention import XLA, Attention, GroupSizes, KeyValues, attention_for
from lrt_jax.models.qwen2_5_vl.config import ModelConfig
from lrt_jax.models.qwen2_5_vl.flops import FlopCounter
from lrt_jax.models.qwen2_5_vl.model import Qwen2_5_VL
from lrt_jax.models.qwen2_5_vl.published import PUBLISHED
from lrt_jax.parallel.collectives import batch_sharding, replicate, shard_batch
from lrt_jax.parallel.mesh import one_device_mesh
from lrt_jax.rl.engine import POLICY, Engine
from lrt_jax.rl.frozen import Reading
from lrt_jax.rl.learner import Experience
from lrt_jax.rl.rollout import SamplingConfig

MODEL = "Qwen/Qwen2.5-VL-3B-Instruct"
PEAKS = {  # bfloat16 FLOP/s without sparsity, by a part of the device's name
    "H200": 989e12,
    "H100": 989e12,
    "A100": 312e12,
    "v6": 918e12,
    "v5p": 459e12,
    "v5 lite": 197e12,
    "v4": 275e12,
}
BYTES = 20  # for a parameter: float32 with gradient and two moments, two copies in bfloat16
OTHERS = 14e9  # bytes for the tower, activations and the logits of a chunk
# Of the largest value, a dozen roundings to bfloat16; a wrong mask makes more of a difference.
TOLERANCE = 0.05


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Of the workload."""

    pairs: int = 4
    group: int = 8
    prompt: int = 1280
    completion: int = 256
    patches: int = 1024  # of each of two images


SMALL = Sizes(pairs=2, group=2, prompt=96, completion=8, patches=64)


def define_flags(values: flags.FlagValues) -> None:
    """Defines this command's flags."""
    flags.DEFINE_string("json", "", "File to write the figures to, a new one.", flag_values=values)
    flags.DEFINE_bool("small", False, "Sizes that a CPU can do.", flag_values=values)
    flags.DEFINE_integer(
        "layers", None, "Of the decoder; by default as many as fit.", flag_values=values
    )
    flags.DEFINE_integer("repeats", 3, "Timed calls of each, after one.", flag_values=values)


def main(values: flags.FlagValues) -> None:
    """Runs the command with flags that are parsed."""
    outputs.check_new(values.json)
    commands.start()
    device = jax.local_devices()[0]
    sizes, config = SMALL if values.small else Sizes(), model_config(values, device)
    commands.log(f"{device.device_kind}, {config.text.num_layers} layers, {sizes}")
    figures = {
        "device": device.device_kind,
        "jax": jax.__version__,
        "layers": config.text.num_layers,
        "sizes": dataclasses.asdict(sizes),
        "kernels": time_kernels(config, sizes, device.platform, values.repeats),
        "stages": time_stages(config, sizes, device.platform, values.repeats),
        "peak_gib": peak_memory(device),
    }
    figures["step_s"] = round(sum(x["seconds"] for x in figures["stages"].values()), 4)
    text = json.dumps(figures, indent=1)
    print(text)
    if values.json:
        Path(values.json).write_text(text + "\n")
    check_kernels(figures["kernels"])


def model_config(values: flags.FlagValues, device: jax.Device) -> ModelConfig:
    """3B's, with as many layers as the device's memory holds."""
    config = PUBLISHED[MODEL].config
    text, vision = config.text, config.vision
    if values.small:
        text = dataclasses.replace(text, vocab_size=2048, num_layers=2, intermediate_size=512)
        text = dataclasses.replace(text, hidden_size=256, num_heads=2, num_kv_heads=1)
        vision = dataclasses.replace(vision, depth=2, full_attention_layers=(1,))
        vision = dataclasses.replace(vision, hidden_size=160, num_heads=2, intermediate_size=320)
        vision = dataclasses.replace(vision, out_hidden_size=256)
        ids = dict(image_token_id=3, video_token_id=4, unspelled_token_ids=())
        return dataclasses.replace(config, text=text, vision=vision, **ids)
    memory = (device.memory_stats() or {}).get("bytes_limit", 0)
    layer = 2 * text.hidden_size * text.head_dim * (text.num_heads + text.num_kv_heads)
    layer += 3 * text.hidden_size * text.intermediate_size
    left = memory - OTHERS - BYTES * text.vocab_size * text.hidden_size
    fitting = max(1, min(text.num_layers, int(left / (BYTES * layer))))
    layers = values.layers or fitting
    return dataclasses.replace(config, text=dataclasses.replace(text, num_layers=layers))


# ---------------------------------------------------------------------------- kernels


def time_kernels(config: ModelConfig, sizes: Sizes, platform: str, repeats: int) -> dict:
    """Seconds of the platform's kernels and of plain attention, and how far they are apart.

    `error` is the largest difference of outputs and gradients, by the largest of each.
    """
    kernels, figures = attention_for("auto", platform, jnp.bfloat16), {}
    for name, (call, *args) in kernel_cases(config, sizes).items():
        seconds, results = {}, {}
        for which, attention in {"kernel": kernels, "plain": XLA()}.items():
            forward, backward = _programs(call, attention, len(args))
            seconds[f"{which}_forward"] = timed(lambda f=forward, a=args: f(*a), repeats)
            seconds[f"{which}_backward"] = timed(lambda f=backward, a=args: f(*a), repeats)
            results[which] = jax.tree.leaves((forward(*args), backward(*args)))
        error = largest_difference(results["kernel"], results["plain"])
        figures[name] = {"kernels": type(kernels).__name__, "error": error, **seconds}
    return figures


def check_kernels(figures: dict[str, dict]) -> None:
    """Refuses kernels that compute something else than plain attention.

    Args:
      figures: of `time_kernels`.

    Raises:
      ValueError: some do; all are named.
    """
    wrong = {name: x["error"] for name, x in figures.items() if not x["error"] <= TOLERANCE}
    if wrong:
        listed = ", ".join(f"{name} is {error}" for name, error in wrong.items())
        raise ValueError(
            f"kernels: {listed} from plain attention, where at most {TOLERANCE} are roundings; "
            "until that is mended train with --config.model.attention=xla here"
        )


def kernel_cases(config: ModelConfig, sizes: Sizes) -> dict[str, tuple]:
    """A call of each method of `Attention`, and its operands in bfloat16."""
    text, vision = config.text, config.vision
    group = GroupSizes(sizes.prompt, sizes.group, sizes.completion)
    tokens = group.prefix + group.group * group.suffix
    length = jnp.arange(sizes.pairs) + sizes.prompt - sizes.pairs
    window = jnp.broadcast_to(
        jnp.arange(sizes.patches) // vision.window_patches, (2 * sizes.pairs, sizes.patches)
    )

    def normal(seed: int, *shape: int) -> jax.Array:
        return jax.random.normal(jax.random.key(seed), shape, jnp.bfloat16)

    def cache(count: int) -> KeyValues:
        shape = (sizes.pairs, count, text.num_kv_heads, text.head_dim)
        return KeyValues(normal(1, *shape), normal(2, *shape))

    def queries(count: int) -> jax.Array:
        return normal(0, sizes.pairs, count, text.num_heads, text.head_dim)

    seen = ((jnp.arange(tokens) >= sizes.prompt) | (jnp.arange(tokens) < length[:, None]))[
        ..., None, None
    ]

    def of_group(attention, q, kv):  # without what padding attends to, which means nothing
        return jnp.where(seen, attention.group(q, kv, length, group), 0)

    def of_patches(attention, q, k, v):
        return attention.patches(q, k, v, window, jnp.bool_(False), vision.window_patches)

    shape = (2 * sizes.pairs, sizes.patches, vision.num_heads, vision.head_dim)
    return {
        "causal": (lambda a, q, kv: a.causal(q, kv), queries(sizes.prompt), cache(sizes.prompt)),
        "group": (of_group, queries(tokens), cache(tokens)),
        "patches": (of_patches, *(normal(i, *shape) for i in range(3))),
    }


@functools.cache  # where the platform's kernels are plain attention nothing is compiled twice
def _programs(call: Callable, attention: Attention, operands: int) -> tuple[Callable, Callable]:
    """A call of a case and its gradient by all operands, jitted."""
    forward = jax.jit(functools.partial(call, attention))
    return forward, jax.jit(jax.grad(_weighted(forward), argnums=tuple(range(operands))))


def _weighted(function: Callable) -> Callable:
    def value(*args):
        out = function(*args)
        return jnp.sum(out.astype(jnp.float32) * jnp.sin(jnp.arange(out.size)).reshape(out.shape))

    return value


def largest_difference(got: Sequence[jax.Array], wanted: Sequence[jax.Array]) -> float:
    """Of arrays from others, each by the largest value wanted; not a number where one is none."""
    return round(float(np.max([*map(_difference, got, wanted)])), 5)


def _difference(got: jax.Array, wanted: jax.Array) -> float:
    got, wanted = (np.asarray(x, np.float32) for x in (got, wanted))
    return np.abs(got - wanted).max() / np.abs(wanted).max()


# ---------------------------------------------------------------------------- a step


def time_stages(config: ModelConfig, sizes: Sizes, platform: str, repeats: int) -> dict:
    """Seconds, share of peak and tokens a second of the stages of a step."""
    dtype = jnp.dtype("float32" if platform == "cpu" else "bfloat16")
    mesh, attention = one_device_mesh(), attention_for("auto", platform, dtype)
    options = dict(dtype=dtype, sharding=batch_sharding(mesh), attention=attention)
    model = Qwen2_5_VL(config, **options)
    engine = Engine(model, None, (16, 17), [], None, mesh, 0)
    shardings = param_shardings(model, mesh, "train")
    init = jax.jit(lambda: init_params(model, jax.random.key(0)), out_shardings=shardings)
    optimizer, loss = make_optimizer(OptimizerOptions(), 2), LossConfig(beta=0.04)
    state = initial_state(init(), ["vision"], optimizer, mesh)
    frozen = jax.jit(lambda p: jax.tree.map(lambda x: x.astype(dtype), p))(state.params)
    updater = Updater(
        model, optimizer, loss, 1.0, mesh, jax.tree.map(lambda leaf: leaf.sharding, state)
    )
    batch = shard_batch(random_batch(config, sizes), mesh)
    sampling = SamplingConfig(sizes.completion, stop_ids=())
    on_policy = replicate(np.bool_(True), mesh)
    counter, stages = FlopCounter(config), {}
    score = counter.score_group(sizes.pairs, sizes.group, sizes.prompt, sizes.completion)
    score += counter.logits(sizes.pairs * sizes.group * sizes.completion)
    prompts, decoded = (
        counter.prefill(sizes.pairs, sizes.prompt),
        counter.decode(sizes.pairs, sizes.group, sizes.prompt, sizes.completion),
    )

    def stage(name: str, call: Callable, flops: float = 0.0, tokens: int = 0):
        seconds = timed(call, repeats)
        stages[name] = {"seconds": seconds, **worth(flops, tokens, seconds)}
        commands.log(f"{name}: {stages[name]}")

    stage("copy", lambda: engine._cast(state.params))
    params = engine._cast(state.params)
    tower = counter.encode_images(2 * sizes.pairs, sizes.patches).total
    stage("encode", functools.partial(engine.encode_images, params, batch), tower)
    features = engine.encode_images(params, batch)[POLICY]

    sample = functools.partial(
        engine.sample, params, batch, features, sizes.group, sampling, stream=0, step=1
    )
    tokens = sizes.pairs * sizes.group * sizes.completion
    stage("rollout", sample, prompts.total + decoded.total, tokens)
    rollout = sample()
    del params, sample
    readings = (Reading(batch.prompt, rollout.tokens, rollout.length - 1),)
    inputs = (model, frozen, features, readings)
    options = dict(answer_ids=(16, 17), temperature=1.0)
    refer = functools.partial(engine._frozen_pass, *inputs, **options)
    stage("reference", refer, score.total, tokens)
    advantages = np.random.default_rng(0).normal(size=rollout.length.shape).astype(np.float32)
    experience = Experience(
        prompt=batch.prompt,
        images=None,
        features=features,
        tokens=rollout.tokens,
        length=rollout.length,
        sampler_logps=rollout.logps,
        reference_logps=refer()[1],
        old_logps=rollout.logps,
        advantages=shard_batch(advantages, mesh),
    )
    del frozen, inputs, refer

    def update():
        nonlocal state
        state, *results = updater._update(state, experience, on_policy)
        return results

    stage("update", update, 3 * score.total, tokens)
    return stages


def random_batch(config: ModelConfig, sizes: Sizes) -> Batch:
    """Prompts whose first tokens are their images."""
    rng, vision = np.random.default_rng(0), config.vision
    merged, shape = 2 * sizes.patches // vision.merge_unit, (sizes.pairs, sizes.prompt)
    side, at = int(np.sqrt(sizes.patches)), np.arange(sizes.patches)
    coords = np.stack([at // side, at % side], axis=-1).astype(np.int32)
    images = (sizes.pairs, 2, sizes.patches)
    seen = np.where(np.arange(sizes.prompt) < merged, np.arange(sizes.prompt), -1)
    return Batch(
        prompt=Prompt(
            tokens=rng.integers(16, 1024, shape).astype(np.int32),
            positions=np.tile(np.arange(sizes.prompt, dtype=np.int32), (sizes.pairs, 3, 1)),
            image_index=np.tile(seen.astype(np.int32), (sizes.pairs, 1)),
            length=np.full(sizes.pairs, sizes.prompt - 2, np.int32),
        ),
        images=Images(
            patches=rng.integers(0, 256, (*images, vision.patch_dim), dtype=np.uint8),
            coords=np.broadcast_to(coords, (*images, 2)),
            window=np.broadcast_to((at // vision.window_patches).astype(np.int32), images),
        ),
        target=Target(
            p_first=np.ones(sizes.pairs, np.float32),
            label=np.zeros(sizes.pairs, np.int32),
            pair=np.arange(sizes.pairs, dtype=np.int32),
            swapped=np.zeros(sizes.pairs, bool),
            weight=np.ones(sizes.pairs, np.float32),
        ),
        listener_prompts=(),
    )


# ---------------------------------------------------------------------------- figures


def timed(call: Callable, repeats: int) -> float:
    """Median seconds of a call, after one that compiles."""
    jax.block_until_ready(call())
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(call())
        seconds.append(time.perf_counter() - start)
    return round(statistics.median(seconds), 6)


def worth(flops: float, tokens: int, seconds: float) -> dict:
    """TFLOP/s, the share of the device's peak where that is known, and tokens a second."""
    kind = jax.local_devices()[0].device_kind
    peak = next((value for part, value in PEAKS.items() if part in kind), None)
    figures = {"tflop_s": round(flops / seconds / 1e12, 3)} if flops else {}
    if flops and peak:
        figures["share_of_peak"] = round(flops / seconds / peak, 4)
    return figures | ({"tokens_s": round(tokens / seconds, 1)} if tokens else {})


def peak_memory(device: jax.Device) -> float | None:
    """GiB that were in use at most; None where the device does not say."""
    used = (device.memory_stats() or {}).get("peak_bytes_in_use")
    return round(used / 2**30, 2) if used else None


def run() -> None:
    """Entry point."""
    commands.run(main, define_flags)


if __name__ == "__main__":
    run()
