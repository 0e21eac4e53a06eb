"""Our GRPO losses against TRL's own code: values, gradients and advantages.

    python -m benchmarks.trl_parity --peer-python PYTHON --out docs/grpo_parity.md

PYTHON is the interpreter of an environment with torch and `trl==1.16.0`; it runs
`trl_parity_peer.py`, and need not have JAX. Both sides get the same float32 arrays: ragged
completions, ratios on both sides of every clipping bound, advantages of both signs. Exits with 1 if
a difference exceeds 1e-5.
"""

import argparse
import functools
import json
import pathlib
import subprocess
import sys
import tempfile

import jax
import numpy as np

from lrt_jax.config import LossConfig
from lrt_jax.rl import advantages, losses

TOLERANCE = 1e-5
ROWS, WIDTH, SEEDS = 16, 48, 3
MAX_COMPLETION_LENGTH = 64
GROUPS, GROUP_SIZE = 32, 8
PLAIN = {
    "beta": 0.0,
    "epsilon": 0.2,
    "epsilon_high": None,
    "delta": None,
    "sampler_ratio": False,
    "on_policy": False,
    "microbatches": 1,
}
OPTIONS = {
    "plain": {},
    "KL": {"beta": 0.04},
    "clip-higher": {"epsilon_high": 0.28},
    "two-sided": {"delta": 1.5},
    "all three": {"beta": 0.04, "epsilon_high": 0.28, "delta": 1.5},
    "on policy": {"on_policy": True, "beta": 0.04},
    "sampler weights": {"sampler_ratio": True, "beta": 0.04},
    "2 microbatches": {"microbatches": 2, "beta": 0.04},
}
LOSS_FIELDS = ("beta", "epsilon", "epsilon_high", "delta", "importance_sampling_level")
ARGUMENTS = ("new_logps", "old_logps", "ref_logps", "advantages", "mask")


def make_batch(seed: int) -> dict[str, np.ndarray]:
    """Arguments of the loss: [ROWS, WIDTH] float32, advantages [ROWS]."""
    rng = np.random.default_rng(seed)
    new = -rng.gamma(0.5, 2.0, (ROWS, WIDTH))
    drift = rng.normal(0, 0.4, (ROWS, 1)) + rng.normal(0, 0.3, new.shape)
    lengths = rng.integers(1, WIDTH + 1, ROWS)
    arrays = {
        "new_logps": new,
        "old_logps": new - drift,
        "ref_logps": new + rng.normal(0, 0.3, new.shape),
        "advantages": rng.normal(0, 1, ROWS),
        "mask": np.arange(WIDTH) < lengths[:, None],
        "sampler_ratio": np.minimum(np.exp(rng.normal(0, 0.3, new.shape)), 2.0),
    }
    return {name: values.astype(np.float32) for name, values in arrays.items()}


def make_cases() -> list[dict]:
    """Every loss type, level and set of options on every batch; cispo's bound is its own kind."""
    cases = []
    for loss_type in losses.LOSS_TYPES:
        for level in losses.IMPORTANCE_LEVELS:
            for name, options in OPTIONS.items():
                case = PLAIN | options | {"loss_type": loss_type, "options": name}
                if loss_type == "cispo" and case["epsilon_high"] is not None:
                    case["epsilon_high"] += 1.0
                case |= {
                    "importance_sampling_level": level,
                    "max_completion_length": MAX_COMPLETION_LENGTH,
                }
                cases += [case | {"batch": f"batch{seed}/"} for seed in range(SEEDS)]
    return cases


def our_answer(case: dict, batch: dict[str, np.ndarray]) -> tuple[float, np.ndarray]:
    """(loss, gradient [N, T]) summed over microbatches, with the whole batch's denominators."""
    loss, gradients = 0.0, []
    for rows in np.split(np.arange(ROWS), case["microbatches"]):
        part = {name: values[rows] for name, values in batch.items()}
        part["old_logps"] = None if case["on_policy"] else part["old_logps"]
        function = functools.partial(
            losses.grpo_loss,
            loss=LossConfig(case["loss_type"], **{name: case[name] for name in LOSS_FIELDS}),
            max_completion_length=case["max_completion_length"],
            num_items_in_batch=batch["mask"].sum(),
            num_sequences=ROWS,
            sampler_ratio=part["sampler_ratio"] if case["sampler_ratio"] else None,
        )
        arguments = [part[name] for name in ARGUMENTS]
        (value, _), gradient = jax.value_and_grad(function, has_aux=True)(*arguments)
        # bnpo is a mean over each microbatch, and these are averaged.
        share = case["microbatches"] if case["loss_type"] == "bnpo" else 1
        loss += float(value) / share
        gradients.append(np.asarray(gradient) / share)
    return loss, np.concatenate(gradients)


def ask_peer(python: str, cases: list[dict], arrays: dict[str, np.ndarray]) -> dict:
    """TRL's losses, gradients and advantages, from another interpreter."""
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        (folder / "cases.json").write_text(json.dumps(cases))
        np.savez(folder / "arrays.npz", **arrays)
        script = pathlib.Path(__file__).with_name("trl_parity_peer.py")
        subprocess.run([python, str(script), str(folder)], check=True)
        with np.load(folder / "answers.npz") as stored:
            return dict(stored)


def compare(cases: list[dict], batches: dict, answers: dict) -> dict[tuple, tuple[float, float]]:
    """(loss type, level, options) -> largest (value, relative gradient) difference over batches."""
    worst = {}
    for i, case in enumerate(cases):
        loss, gradient = our_answer(case, batches[case["batch"]])
        expected = answers[f"gradient/{i}"]
        value_gap = abs(loss - float(answers[f"loss/{i}"]))
        gradient_gap = float(np.abs(gradient - expected).max() / np.abs(expected).max())
        key = case["loss_type"], case["importance_sampling_level"], case["options"]
        old = worst.get(key, (0.0, 0.0))
        worst[key] = max(old[0], value_gap), max(old[1], gradient_gap)
    return worst


def advantage_gaps(rewards: np.ndarray, answers: dict) -> dict[str, float]:
    """scale -> largest difference of advantages, which are of order one."""
    gaps = {}
    for scale in advantages.ADVANTAGE_SCALES:
        ours = advantages.group_advantages(rewards, scale=scale)
        gaps[scale] = float(np.abs(ours - answers[f"advantages/{scale}"]).max())
    return gaps


def render(worst: dict, gaps: dict[str, float], versions: list[str]) -> str:
    lines = [
        "# GRPO losses: parity with TRL",
        "",
        f"TRL {versions[0]} with torch {versions[1]}, against `lrt_jax.rl` with jax "
        f"{jax.__version__}; both float32 on CPU. TRL's side is its own "
        "`GRPOTrainer._compute_loss` (`use_bias_correction_kl=False`), given the "
        "log-probabilities; only the model is replaced.",
        "",
        "    python -m benchmarks.trl_parity --peer-python PYTHON --out docs/grpo_parity.md",
        "",
        f"{SEEDS} batches of {ROWS} ragged completions of up to {WIDTH} tokens. `KL` is "
        "`beta=0.04`, `clip-higher` is `epsilon_high=0.28` (cispo: 1.28, its largest ratio), "
        "`two-sided` is `delta=1.5`, `sampler weights` are truncated ratios. `2 microbatches`: "
        "TRL accumulates over two, ours adds the losses of two calls with the denominators of the "
        "whole batch (bnpo: averages them). The last three columns have `beta=0.04`. Without "
        "`epsilon_high` cispo caps every ratio at `epsilon`, here as there: give it one.",
        "",
        "## Loss: largest absolute difference",
        "",
        *_table(worst, 0),
        "",
        "## Gradient: largest absolute difference, relative to the largest entry",
        "",
        *_table(worst, 1),
        "",
        "## Advantages: largest absolute difference",
        "",
        f"{GROUPS} groups of {GROUP_SIZE} rewards, `(r - mean) / (std + 1e-4)`: "
        + ", ".join(f"scale `{scale}` {gap:.1e}" for scale, gap in gaps.items())
        + ".",
        "",
        "TRL's formula stands inside a larger function and is repeated in the peer script, with "
        "TRL's own standard deviation. In a group of equal rewards ours are exactly zero.",
    ]
    return "\n".join(lines) + "\n"


def _table(worst: dict, which: int) -> list[str]:
    lines = ["| loss | level | " + " | ".join(OPTIONS) + " |", "|---" * (len(OPTIONS) + 2) + "|"]
    for loss_type in losses.LOSS_TYPES:
        for level in losses.IMPORTANCE_LEVELS:
            cells = [f"{worst[loss_type, level, name][which]:.1e}" for name in OPTIONS]
            lines.append(f"| {loss_type} | {level} | " + " | ".join(cells) + " |")
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer-python", required=True, help="interpreter that has torch and TRL")
    parser.add_argument("--out", type=pathlib.Path, help="Markdown file to write")
    flags = parser.parse_args()
    batches = {f"batch{seed}/": make_batch(seed) for seed in range(SEEDS)}
    cases = make_cases()
    rewards = np.random.default_rng(0).uniform(0, 2, (GROUPS, GROUP_SIZE)).astype(np.float32)
    arrays = {prefix + name: v for prefix, batch in batches.items() for name, v in batch.items()}
    answers = ask_peer(flags.peer_python, cases, arrays | {"rewards": rewards})
    worst, gaps = compare(cases, batches, answers), advantage_gaps(rewards, answers)
    text = render(worst, gaps, answers["versions"].tolist())
    print(text)
    if flags.out:
        flags.out.write_text(text)
    largest = max(max(pair) for pair in worst.values())
    print(f"largest: losses and gradients {largest:.1e}, advantages {max(gaps.values()):.1e}")
    return int(max(largest, *gaps.values()) > TOLERANCE)


if __name__ == "__main__":
    sys.exit(main())
