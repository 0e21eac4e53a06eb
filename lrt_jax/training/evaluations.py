"""Evaluations of a run: made once, kept as `eval/step-*.json`, compared in pairs."""

import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from tqdm import tqdm

from lrt_jax.config import Config
from lrt_jax.digests import check_seal, sealed
from lrt_jax.disk import read_json
from lrt_jax.evaluation.judge import HEADLINE, evaluate, judgements_from_dict
from lrt_jax.evaluation.judgements import MEASURES
from lrt_jax.evaluation.metrics import paired_gain
from lrt_jax.parallel import processes
from lrt_jax.reporting.curves import GRPO, SFT, draw_curves
from lrt_jax.reporting.metrics import read_metrics
from lrt_jax.training.files import write_json
from lrt_jax.training.setup import Run
from lrt_jax.training.state import TrainState

FIELDS = (
    *HEADLINE,
    "accuracy_greedy",
    "accuracy_greedy_ci95",
    "accuracy_reward_model",
    "truncated",
    "completion_length",
)
# What the likeliest trace is like, beside its accuracy: samples may gain what it loses.
OF_GREEDY = ("trace_truth", "contradiction_rate", "listener_confidence")


def evaluation_path(workdir: Path, step: int) -> Path:
    return workdir / "eval" / f"step-{step:06}.json"


def evaluate_once(
    run: Run, state: TrainState, workdir: Path, step: int, say: Callable[[str], None]
) -> dict:
    """Evaluates the state after `step` steps, or reads what an earlier call wrote.

    Returns:
      What the file holds, see `read_evaluation`.
    """
    is_there = evaluation_path(workdir, step).is_file()
    if processes.told(f"evaluation after {step} steps", is_there):
        return read_evaluation(workdir, step)
    content = evaluate_params(run, state.params, f"evaluation after {step} steps")
    write_json(evaluation_path(workdir, step), sealed({"step": step, **content}))
    say(describe(content, f"step {step}"))
    return content


def best_step(workdir: Path) -> int | None:
    """Step of the best evaluation after training began, by sampled accuracy; the last of equals."""
    files = sorted((workdir / "eval").glob("step-*.json"))
    contents = [read_json(file) for file in files]
    scored = [
        (x["accuracy"], x["step"]) for x in contents if x["step"] and x["accuracy"] is not None
    ]
    return max(scored)[1] if scored else None


def read_evaluation(workdir: Path, step: int) -> dict:
    """What `evaluate_once` wrote, see `Evaluation.to_dict`; the first process alone reads it.

    Raises:
      FileNotFoundError: the file is gone.
    """
    path = evaluation_path(workdir, step)
    if not processes.is_first():
        return {}
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file, and the run it belongs to has moved on")
    return read_json(path)


def evaluate_params(run: Run, params: Mapping, title: str) -> dict:
    """Evaluates parameters on the config's evaluation split."""
    loader = run.eval_loader()
    bar = tqdm(
        total=2 * loader.pairs,
        desc=title,
        unit=" judgements",
        leave=False,
        mininterval=0.5 if sys.stderr.isatty() else 15.0,  # a log file wants few lines
        disable=not processes.is_first(),
    )
    with bar:
        evaluation = evaluate(
            run.engine,
            params,
            loader,
            run.prepared,
            run.sampling,
            truth=run.truth.judge if run.truth else None,
            progress=bar.update,
        )
    return evaluation.to_dict()


def headline(content: Mapping) -> dict:
    """The fields that stand in `results.json`.

    Raises:
      ValueError: what was read from a file is not what `evaluate_once` wrote.
    """
    check_seal(content)
    greedy = {
        f"{name}_greedy{ending}": content["greedy"][f"{name}{ending}"]
        for name in OF_GREEDY
        for ending in ("", "_ci95")
    }
    return {name: content[name] for name in FIELDS} | greedy


def summary(config: Config, before: Mapping, after: Mapping) -> dict:
    """What `results.json` says of a run that began and ended with these evaluations."""
    return {
        "algorithm": config.algorithm,
        "preset": config.preset,
        "steps": config.steps,
        "split": config.eval.split,
        "before": headline(before),
        "after": headline(after) | gains(before, after),
    }


def measured(config: Config, workdir: Path, step: int) -> dict | None:
    """What `results.json` says, or would, had the run ended after a step.

    Returns:
      As `summary`; None where that step was not evaluated.
    """
    paths = [evaluation_path(workdir, x) for x in (0, step)]
    if not all(path.is_file() for path in paths):
        return None
    return summary(config, *map(read_json, paths))


def gains(before: Mapping, after: Mapping) -> dict:
    """What changed on the same pairs, with intervals clustered by prompt.

    `accuracy_gain` and `accuracy_gain_ci95` are of sampled accuracy; `gains` holds every measure,
    of the samples and, with `_greedy` behind its name, of the likeliest traces.
    """
    every = {}
    for mode in ("sampled", "greedy"):
        first, last = (judgements_from_dict(x["judgements"][mode]) for x in (before, after))
        for name in MEASURES:
            change, interval = paired_gain(first, last, name)
            field = name if mode == "sampled" else f"{name}_{mode}"
            every[field] = {"gain": change, "ci95": interval}
    sampled = every["accuracy"]
    return {
        "accuracy_gain": sampled["gain"],
        "accuracy_gain_ci95": sampled["ci95"],
        "gains": every,
    }


def draw_run(config: Config, workdir: Path) -> None:
    """Draws `curves.png` of all steps and evaluations so far."""
    if processes.is_first():
        files = sorted((workdir / "eval").glob("step-*.json"))
        title = f"{config.algorithm}, {config.model.path} on {config.data.source}"
        panels = SFT if config.algorithm == "sft" else GRPO
        evaluations = [read_json(file) for file in files]
        draw_curves(workdir, title, panels, read_metrics(workdir), evaluations)


def describe(content: Mapping, name: str) -> str:
    """One line about an evaluation."""

    def share(field: str) -> str:
        value = content[field]
        return "-" if value is None else f"{value:.3f}"

    cut = round(content["truncated"] * 2 * content["pairs"])
    low_high = content["accuracy_ci95"]
    interval = f" [{low_high[0]:.3f}, {low_high[1]:.3f}]" if low_high else ""
    return (
        f"{name}: accuracy {share('accuracy')}{interval} sampled, "
        f"{share('accuracy_greedy')} greedy, "
        f"{share('accuracy_reward_model')} as reward model; contradiction "
        f"{share('contradiction_rate')}; first position {share('first_position_rate')}; "
        f"{content['unparsed']} of {2 * content['pairs']} judgements unparsed"
        + (f", {cut} cut at max_completion_length" if cut else "")
    )
