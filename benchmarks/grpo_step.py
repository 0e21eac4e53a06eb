"""Times whole training steps, stage by stage, on random images and forced completion lengths.

    python -m benchmarks.grpo_step --model=FOLDER --listener=FOLDER --prompts=4 --group=8

What is timed is the training loop's own step: decoding and patchifying run ahead in threads as in
training. No stop token ends a completion, so that every step does the same work.
"""

import dataclasses
import json
import statistics
import tempfile
from pathlib import Path

import numpy as np
from absl import flags
from PIL import Image

from benchmarks import outputs
from lrt_jax.cli import commands
from lrt_jax.config import Config, parse_config
from lrt_jax.config.presets import preset_config

WARM_UP = 2  # steps, of which the first compiles


def define_flags(values: flags.FlagValues) -> None:
    """Defines this command's flags."""
    text, number = flags.DEFINE_string, flags.DEFINE_integer
    text("model", "tiny", "HF folder of the policy.", flag_values=values)
    text(
        "listener", None, "HF folder of the listener; by default the policy's.", flag_values=values
    )
    text("style", "judge", "How the listener is asked: judge or continue.", flag_values=values)
    text("dtype", "float32", "Of activations.", flag_values=values)
    text("loss", "dapo", "Loss type.", flag_values=values)
    number("prompts", 4, "Pairs a step.", flag_values=values)
    number("group", 8, "Completions of a pair.", flag_values=values)
    number("image_size", 224, "Side of the square images, in pixels.", flag_values=values)
    number("completion", 64, "Tokens of every completion.", flag_values=values)
    number("microbatches", 1, "Passes that add up to a gradient.", flag_values=values)
    number("steps", 8, "Steps to time, after the warm-up.", flag_values=values)
    flags.DEFINE_float("beta", 0.04, "KL weight; 0 runs no reference.", flag_values=values)
    text("json", "", "File to write the figures to, a new one.", flag_values=values)


def main(values: flags.FlagValues) -> None:
    """Runs the command with flags that are parsed."""
    outputs.check_new(values.json)
    commands.start()
    with tempfile.TemporaryDirectory() as folder:
        data = write_pairs(Path(folder) / "raw", max(values.prompts, 8), values.image_size)
        lines = time_steps(make_config(values, data), Path(folder), values.steps)
    figures = summarise(lines, values)
    for name, value in figures.items():
        commands.log(f"{name}: {value}")
    if values.json:
        Path(values.json).write_text(json.dumps(figures, indent=1) + "\n")


def write_pairs(folder: Path, count: int, size: int) -> Path:
    """Pairs of noise in HPDv2's layout, to train on, and one more in a split for testing."""
    rng = np.random.default_rng(0)
    (folder / "images").mkdir(parents=True)
    records = []
    for i in range(count + 1):
        names = [f"{i}-{k}.png" for k in range(2)]
        for name in names:
            pixels = rng.integers(0, 256, (size, size, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / "images" / name)
        prompt = f"a red bicycle by the sea, number {i}"
        records.append({"prompt": prompt, "file_path": names, "human_preference": [1, 0]})
    names = records.pop()["file_path"]
    test = {"prompt": "paper lanterns", "image_path": names, "rank": [1, 2]}
    (folder / "train.json").write_text(json.dumps(records))
    (folder / "test.json").write_text(json.dumps([test]))
    return folder


def make_config(values: flags.FlagValues, data: Path) -> Config:
    """The tiny preset with the workload of the flags."""
    patches = (values.image_size // 28 * 2) ** 2
    config = preset_config("tiny")
    config.update_from_flattened_dict(
        {
            "steps": values.steps + WARM_UP,
            "batch_size": values.prompts,
            "group_size": values.group,
            "max_completion_length": values.completion,
            "model.path": values.model,
            "model.dtype": values.dtype,
            "listener.path": values.listener,
            "listener.style": values.style,
            "loss.type": values.loss,
            "loss.beta": values.beta,
            "loss.microbatches": values.microbatches,
            "data.path": str(data),
            "eval.split": "test",  # the other there is; nothing is evaluated here
            "eval.others": (),
            "eval.held_out_listener": None,
            "data.max_patches": -(-patches // 64) * 64,
            "data.prompt_tokens": patches // 2 + 192,
            "data.judge_tokens": patches // 2 + 192,
            "data.threads": 2,
            "optimizer.learning_rate": 1e-5,
        }
    )
    return parse_config(config)


def time_steps(config: Config, workdir: Path, steps: int) -> list[dict]:
    """Metrics of each step after the warm-up."""
    from lrt_jax.algorithms import algorithm_of
    from lrt_jax.reporting.monitor import Monitor
    from lrt_jax.training.setup import open_run

    run, params = open_run(config, workdir)
    run = dataclasses.replace(run, sampling=dataclasses.replace(run.sampling, stop_ids=()))
    algorithm = algorithm_of(config)(run)
    state = algorithm.init(params)
    lines = []
    with run.train_loader() as batches, Monitor() as monitor:
        for step in range(1, WARM_UP + steps + 1):
            state, result = algorithm.step(state, next(batches), step, monitor)
            lines.append(monitor.take(int(result.completions.length.sum())))
    return lines[WARM_UP:]


def summarise(lines: list[dict], values: flags.FlagValues) -> dict:
    """Medians over the timed steps, in seconds."""
    import jax

    def median(name: str) -> float:
        return round(statistics.median(line[name] for line in lines), 4)

    stages = [name for name in lines[0] if name.startswith("seconds/") and name != "seconds/step"]
    return {
        "step_s": median("seconds/step"),
        **{f"{name.removeprefix('seconds/')}_s": median(name) for name in stages},
        "step_s_min": round(min(line["seconds/step"] for line in lines), 4),
        "step_s_max": round(max(line["seconds/step"] for line in lines), 4),
        "completion_tokens": values.prompts * values.group * values.completion,
        "compilations": sum(line["compilations"] for line in lines),
        "device": jax.devices()[0].device_kind,
        "workload": {
            name: values[name].value
            for name in ("prompts", "group", "image_size", "completion", "steps", "beta", "style")
        },
    }


def run() -> None:
    """Entry point."""
    commands.run(main, define_flags)


if __name__ == "__main__":
    run()
