"""Measures how fast stored pairs become batches, where time goes, and whether memory is flat.

    python -m benchmarks.data_pipeline --output=DIR

Draws its own images, prepares them, and times the training loader at the patches of the 7B model.
The configurations take turns, so that what else the machine does meets all of them alike. Writes
DIR/figures.json and DIR/data_loading.png, and prints the tables of docs/data_loading.md.
"""

import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from absl import flags
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from lrt_jax import assets
from lrt_jax.cli import commands
from lrt_jax.data.dataset.prepared_set import PreparedSet
from lrt_jax.data.images import decode
from lrt_jax.data.input.pairs import PairEncoder, PairSource
from lrt_jax.data.input.patches import encode_pair, read_image_policy
from lrt_jax.data.input.pipeline import train_loader
from lrt_jax.data.input.prompts import PromptEncoder
from lrt_jax.data.input.tokenizer import load_tokenizer
from lrt_jax.data.preparation.prepare import prepare
from lrt_jax.data.schema import stack
from lrt_jax.models import read_config

LOADERS = [(1, 0), (2, 0), (4, 0), (8, 0), (1, 2), (2, 2)]  # threads, workers
BATCH = 8  # pairs
SQUARE = [(512, 512)]
MIXED = [(512, 512), (640, 360), (910, 512), (768, 768), (1024, 1024), (256, 256)]  # width, height
SMALL = [(96, 96)]  # for memory, where nothing is to be gained from waiting for large ones
# What docs/data_loading.md asks for: the 7b preset on 64 chips of TPU v5e.
PAIRS_PER_STEP = 64
STEP_SECONDS = (5.0, 15.0)


def define_flags(values: flags.FlagValues) -> None:
    """Defines this command's flags."""
    number = flags.DEFINE_integer
    commands.define_text(values, "output", "Folder for the figures and the chart.")
    number("images", 96, "Images of each set.", flag_values=values)
    number("batches", 40, "Batches of 8 pairs that are timed at once.", flag_values=values)
    number("repeats", 3, "Turns of every configuration.", flag_values=values)
    number("patches", 1024, "Patches per image.", flag_values=values)
    number("few", 1000, "Pairs of the shorter stream whose memory is measured.", flag_values=values)
    number("many", 50000, "Pairs of the longer one.", flag_values=values)
    flags.DEFINE_string("stream", "", "Measure the memory of one stream.", flag_values=values)


# ---------------------------------------------------------------------------- data


def picture(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    """Clouds: octaves of smooth noise that fade like the frequencies of photographs."""
    total = np.zeros((height, width, 3), np.float32)
    for octave in range(1, 9):
        coarse = rng.integers(0, 256, (2**octave, 2**octave, 3), dtype=np.uint8)
        smooth = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
        total += (np.asarray(smooth, np.float32) - 128) / 1.7**octave
    return Image.fromarray(np.clip(2 * total + 128, 0, 255).astype(np.uint8))


def write_set(folder: Path, count: int, sizes: Sequence[tuple[int, int]]) -> PreparedSet:
    """A prepared set of JPEGs, each shown in four pairs."""
    rng = np.random.default_rng(0)
    (folder / "raw" / "images").mkdir(parents=True)
    names = [f"{i}.jpg" for i in range(count)]
    for i, name in enumerate(names):
        picture(rng, *sizes[i % len(sizes)]).save(folder / "raw" / "images" / name, quality=90)
    records = [
        {
            "prompt": f"a red bicycle leaning on a wall by the sea at dawn, painting number {i}",
            "file_path": [names[i], names[(i + step) % count]],
            "human_preference": [1, 0],
        }
        for step in (1, 2)
        for i in range(count)
    ]
    (folder / "raw" / "train.json").write_text(json.dumps(records))
    prepare("hpdv2", folder / "raw", folder / "set")
    return PreparedSet(folder / "set")


def make_encoder(patches: int) -> PairEncoder:
    """With the tokenizer of the built-in model, whose template is that of Qwen2.5-VL."""
    folder = assets.tiny_model()
    config, tokenizer = read_config(folder), load_tokenizer(folder)
    prompt = PromptEncoder(tokenizer, config, "reason", patches // 2 + 256, patches)
    return PairEncoder(read_image_policy(folder, config.vision, patches), config.vision, prompt)


# ---------------------------------------------------------------------------- speed


def loader(prepared: PreparedSet, encoder: PairEncoder, threads: int, workers: int):
    """The training loader of the one split."""
    options = {"num_threads": threads, "num_workers": workers}
    return train_loader(prepared, encoder, split="train", batch_size=BATCH, seed=0, **options)


def pairs_per_second(batches: Iterator, ahead: int, count: int) -> float:
    """Rate of `count` batches, after as many as are prepared ahead."""
    for _ in range(ahead):
        next(batches)
    began = time.perf_counter()
    for _ in range(count):
        next(batches)
    return count * BATCH / (time.perf_counter() - began)


def measure(prepared: PreparedSet, encoder: PairEncoder, count: int, repeats: int) -> dict:
    """Pairs a second of every loader, in turns; `threads,workers` to its rates."""
    rates: dict[str, list[float]] = {f"{t},{w}": [] for t, w in LOADERS}
    for _ in range(repeats):
        for threads, workers in LOADERS:
            ahead = threads + 1 + 4 * workers
            with loader(prepared, encoder, threads, workers) as batches:
                rate = pairs_per_second(batches, ahead, count)
            rates[f"{threads},{workers}"].append(round(rate, 2))
    return rates


def profile(prepared: PreparedSet, encoder: PairEncoder, pairs: int = 96) -> dict[str, float]:
    """Milliseconds that each stage takes of a pair, one after the other in one thread."""
    source = PairSource(prepared, np.asarray(prepared.rows("train")))
    spent: dict[str, float] = {}

    def timed(stage: str, work: Callable, *arguments):
        began = time.perf_counter()
        result = work(*arguments)
        spent[stage] = spent.get(stage, 0.0) + 1e3 * (time.perf_counter() - began) / pairs
        return result

    examples = []
    for index in range(pairs):
        pair = timed("read", source.__getitem__, index % len(source))
        pixels = timed("decode", _decode_both, pair.images)
        shown, grids = timed("resize and cut", encode_pair, *pixels, encoder.policy, encoder.vision)
        prompt = timed("prompt", encoder.prompt.encode, pair.record.prompt, grids)
        example = encoder.encode(pair, False)
        examples.append(dataclasses.replace(example, images=shown, prompt=prompt))
        if len(examples) == BATCH:
            timed("batch", stack, examples)
            examples.clear()
    return {stage: round(value, 3) for stage, value in spent.items()}


def _decode_both(files: tuple[bytes, bytes]) -> list[np.ndarray]:
    return [decode(data, "") for data in files]


# ---------------------------------------------------------------------------- memory


def stream(folder: str, pairs: int) -> dict[str, float]:
    """Peak memory in MB of this process, after so many pairs."""
    with loader(PreparedSet(folder), make_encoder(64), 2, 0) as batches:
        for _ in range(pairs // BATCH):
            next(batches)
    # Not `ru_maxrss`, which a process inherits from the one that started it.
    lines = Path("/proc/self/status").read_text().splitlines()
    peak = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
    return {"pairs": pairs, "peak_mb": round(peak / 1024, 1)}


def measure_stream(prepared: PreparedSet, pairs: int) -> dict[str, float]:
    """`stream` in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.data_pipeline", "--output=."]
    done = subprocess.run(
        [*command, f"--stream={prepared.folder}", f"--many={pairs}"],
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


# ---------------------------------------------------------------------------- telling


def compared(rates: dict[str, list[float]], name: str) -> list[str]:
    """Median and best rate, and how many times that of one thread they are."""
    return [
        f"{statistics.median(rates[name]):.1f}",
        f"{max(rates[name]):.1f}",
        " / ".join(f"{f(rates[name]) / f(rates['1,0']):.2f}" for f in (statistics.median, max)),
    ]


def tables(figures: dict) -> str:
    """The tables of docs/data_loading.md."""
    lines = [
        "| threads | workers | 512x512, pairs/s | best | of one thread | mixed sizes, pairs/s | "
        "best | of one thread |",
        "|---" * 8 + "|",
    ]
    both = [figures["pairs_per_second"][name] for name in ("square", "mixed")]
    for name in both[0]:
        cells = [cell for rates in both for cell in compared(rates, name)]
        lines.append(f"| {' | '.join([*name.split(','), *cells])} |")
    stages = figures["ms_per_pair"]
    lines += ["", f"| ms a pair | {' | '.join(stages['square'])} | together |"]
    lines += ["|---" * (len(stages["square"]) + 2) + "|"]
    for name, row in stages.items():
        cells = [f"{value:.2f}" for value in [*row.values(), sum(row.values())]]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    lines += ["", "| pairs streamed | peak memory, MB |", "|---|---|"]
    lines += [f"| {row['pairs']:,} | {row['peak_mb']:.1f} |" for row in figures["memory"]]
    cores = figures["v5e_64"]["cores"]
    lines += ["", f"v5e-64: {cores[0]:.2f} to {cores[1]:.2f} cores of this machine"]
    return "\n".join(lines)


def cores_for_v5e_64(rate: float) -> dict:
    """Cores that feed the 7b preset's batches, at the rate of one core."""
    needed = [PAIRS_PER_STEP / seconds for seconds in STEP_SECONDS]
    return {
        "pairs_per_step": PAIRS_PER_STEP,
        "step_seconds": STEP_SECONDS,
        "pairs_per_second": [round(x, 2) for x in sorted(needed)],
        "cores": [round(x / rate, 3) for x in sorted(needed)],
    }


def draw(path: Path, figures: dict) -> None:
    """Pairs a second against threads, with every repeat as a dot."""
    figure = Figure(figsize=(6, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for name, label in (("square", "512x512"), ("mixed", "mixed sizes")):
        rates = figures["pairs_per_second"][name]
        for workers, style in ((0, "-"), (2, "--")):
            threads = [t for t, w in LOADERS if w == workers]
            values = [rates[f"{t},{workers}"] for t in threads]
            heights = [statistics.median(v) for v in values]
            title = f"{label}, {workers} workers" if workers else label
            (line,) = axes.plot(threads, heights, style, marker="o", markersize=4, label=title)
            for t, dots in zip(threads, values, strict=True):
                axes.plot([t] * len(dots), dots, ".", color=line.get_color(), alpha=0.4)
    axes.set_xscale("log", base=2)
    axes.set_xticks([1, 2, 4, 8], ["1", "2", "4", "8"])
    axes.set_xlabel(f"threads (of each worker), {figures['cores']} cores")
    axes.set_ylabel("pairs a second")
    axes.set_ylim(0)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize="small")
    figure.savefig(path, dpi=120)


def main(values: flags.FlagValues) -> None:
    """Runs the command with flags that are parsed."""
    if values.stream:
        commands.log(json.dumps(stream(values.stream, values.many)))
        return
    output = Path(values.output)
    output.mkdir(parents=True, exist_ok=True)
    encoder = make_encoder(values.patches)
    rates, stages = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        for name, sizes in {"square": SQUARE, "mixed": MIXED}.items():
            prepared = write_set(Path(folder) / name, values.images, sizes)
            rates[name] = measure(prepared, encoder, values.batches, values.repeats)
            stages[name] = profile(prepared, encoder)
        small = write_set(Path(folder) / "small", values.images, SMALL)
        memory = [measure_stream(small, pairs) for pairs in (values.few, values.many)]
    figures = {
        "cores": len(os.sched_getaffinity(0)),
        "patches": values.patches,
        "pairs_per_second": rates,
        "ms_per_pair": stages,
        "memory": memory,
        "v5e_64": cores_for_v5e_64(statistics.median(rates["square"]["1,0"])),
    }
    (output / "figures.json").write_text(json.dumps(figures, indent=1) + "\n")
    draw(output / "data_loading.png", figures)
    commands.log(tables(figures))


def run() -> None:
    """Entry point."""
    commands.run(main, define_flags)


if __name__ == "__main__":
    run()
