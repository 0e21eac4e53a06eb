"""How much host memory loading a checkpoint takes, of what the process holds afterwards.

    python -m benchmarks.loading_memory --output=DIR

Draws a checkpoint of about 1 GB in bfloat16, in the hub's layout, and loads it in 4 processes of
one CPU device each, which meet on loopback: for every mesh and dtype of parameters anew. Memory is
all that is resident of a process, mapped files included, above what it was before; the built-in
model is loaded first, so that libraries, collectives and compiler are there. Writes
DIR/figures.json and prints the table of docs/mesh.md.
"""

import contextlib
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
from absl import flags

from lrt_jax import assets
from lrt_jax.cli import commands
from lrt_jax.models import load_model, save_pretrained
from lrt_jax.parallel.mesh import make_mesh

ROOT = Path(__file__).parents[1]
PROCESSES = 4
MESHES = ({"fsdp": 4}, {"fsdp": 2, "tensor": 2}, {"tensor": 4})
DTYPES = ("bfloat16", "float32")
LIMIT = 1.3
# The proportions of Qwen2.5-VL-3B, at about a seventh of its weights.
TEXT = {
    "hidden_size": 1024,
    "intermediate_size": 5504,
    "num_hidden_layers": 20,
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
    "vocab_size": 65536,
    "rope_scaling": {"type": "mrope", "mrope_section": [8, 12, 12]},
}
VISION = {
    "hidden_size": 640,
    "intermediate_size": 1712,
    "num_heads": 8,
    "depth": 8,
    "out_hidden_size": 1024,
    "fullatt_block_indexes": [3, 7],
}


def define_flags(values: flags.FlagValues) -> None:
    """Defines this command's flags."""
    commands.define_text(values, "output", "Folder for the figures.")
    flags.DEFINE_string("process", "", "Be one of the processes, told so.", flag_values=values)


def write_checkpoint(folder: Path) -> int:
    """Writes random weights, the tokenizer of the built-in model beside them; bytes of weights."""
    config = json.loads((assets.tiny_model() / "config.json").read_text())
    vision = config["vision_config"] | VISION
    config |= TEXT | {"vision_config": vision, "torch_dtype": "bfloat16"}
    with tempfile.TemporaryDirectory() as source:
        (Path(source) / "config.json").write_text(json.dumps(config))
        _, params = load_model(source, jnp.bfloat16, seed=0)
        save_pretrained(params, folder, source=source, max_shard_size="250MB")
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def measure(folder: Path, mesh: dict[str, int], dtype: str) -> list[dict]:
    """What every process reports."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    running = []
    for index in range(PROCESSES):
        order = {"address": address, "index": index}
        order |= {"folder": str(folder), "mesh": mesh, "dtype": dtype}
        command = [sys.executable, "-m", "benchmarks.loading_memory"]
        command += [f"--output={folder}", f"--process={json.dumps(order)}"]
        env = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"} | {"JAX_PLATFORMS": "cpu"}
        running.append(subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE))
    try:
        told = [process.communicate(timeout=600)[0] for process in running]
        if any(process.returncode for process in running):
            raise ValueError("a process has failed; what it said is above")
    finally:
        for process in running:
            process.kill()
    return [json.loads(text.splitlines()[-1]) for text in told]  # the transport has its say before


# ---------------------------------------------------------------------------- one of the processes


def report(order: dict) -> dict:
    """Loads a checkpoint together with the others: bytes held, and bytes it took."""
    jax.distributed.initialize(order["address"], PROCESSES, order["index"])
    mesh, dtype = make_mesh(**order["mesh"]), jnp.dtype(order["dtype"])
    load_model(assets.tiny_model(), dtype, mesh=mesh)
    before = resident()
    Path("/proc/self/clear_refs").write_text("5")  # the highest mark is of now
    began = time.perf_counter()
    with sampled() as seen:
        _, params = load_model(order["folder"], dtype, mesh=mesh)
    seconds = time.perf_counter() - began
    shards = [shard.data.nbytes for x in jax.tree.leaves(params) for shard in x.addressable_shards]
    figures = {
        "held": sum(shards),
        "peak": max(seen) - before,
        "kernel_peak": status("VmHWM") - before,
        "after": resident() - before,
        "seconds": round(seconds, 1),
    }
    jax.distributed.shutdown()
    return figures


@contextlib.contextmanager
def sampled(every: float = 0.001) -> Iterator[list[int]]:
    """Bytes that are resident, over and over, until the block ends."""
    seen, ended = [], threading.Event()

    def sample():
        while not ended.wait(every):
            seen.append(resident())

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield seen
    finally:
        ended.set()
        thread.join()


def resident() -> int:
    """Bytes of this process in memory: its own, of mapped files, and shared."""
    return status("RssAnon", "RssFile", "RssShmem")


def status(*fields: str) -> int:
    """The sum of what the kernel says of this process, in bytes."""
    text = Path("/proc/self/status").read_text()
    return sum(1024 * int(re.search(rf"^{field}:\s+(\d+)", text, re.M)[1]) for field in fields)


# ---------------------------------------------------------------------------- table


def table(rows: Sequence[dict]) -> str:
    """A line for every mesh and dtype, of the process that took the most."""
    lines = [
        "| mesh | parameters | held, MB | peak, MB | peak / held | by the kernel's mark | s |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        worst = max(row["processes"], key=lambda x: max(x["peak"], x["kernel_peak"]) / x["held"])
        held, peak, mark = (worst[name] / 1e6 for name in ("held", "peak", "kernel_peak"))
        mesh = " x ".join(f"{axis}={size}" for axis, size in row["mesh"].items())
        lines.append(
            f"| {mesh} | {row['dtype']} | {held:.0f} | {peak:.0f} | {peak / held:.2f} "
            f"| {mark / held:.2f} | {worst['seconds']:.0f} |"
        )
    return "\n".join(lines)


def main(values: flags.FlagValues) -> None:
    """Runs the command with flags that are parsed."""
    if values.process:
        commands.log(json.dumps(report(json.loads(values.process))))
        return
    output = Path(values.output).absolute()
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output) as folder:
        checkpoint = Path(folder) / "model"
        size = write_checkpoint(checkpoint)
        rows = [
            {"mesh": mesh, "dtype": dtype, "processes": measure(checkpoint, mesh, dtype)}
            for mesh in MESHES
            for dtype in DTYPES
        ]
    figures = {"checkpoint": size, "limit": LIMIT, "rows": rows}
    (output / "figures.json").write_text(json.dumps(figures, indent=1) + "\n")
    commands.log(f"{size / 1e6:.0f} MB on disk\n\n{table(rows)}")


def run() -> None:
    """Entry point."""
    commands.run(main, define_flags)


if __name__ == "__main__":
    run()
