"""Evaluations of a run: made once, kept as files, compared in pairs.

Those of `eval.split` are `eval/step-*.json`, those of further splits `eval/SPLIT/step-*.json`.
"""

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path

from lrt_jax.algorithms import algorithm_of, name_of
from lrt_jax.algorithms.state import TrainState
from lrt_jax.config import Config
from lrt_jax.config.choices import SamplingWeights
from lrt_jax.evaluation.evaluator import (
    HEADLINE,
    LATER_HEADLINE,
    MODES,
    evaluate,
    predictions_from_dict,
)
from lrt_jax.evaluation.metrics import paired_gain
from lrt_jax.evaluation.predictions import ROW_METRICS
from lrt_jax.parallel import processes
from lrt_jax.parallel.progress import progress_bar
from lrt_jax.reporting.curves import draw_curves
from lrt_jax.reporting.metrics import read_metrics
from lrt_jax.rl.nonfinite import NotFiniteError
from lrt_jax.storage.digests import check_seal, sealed
from lrt_jax.storage.disk import read_json, read_plainly
from lrt_jax.storage.workdir import step_file, step_files
from lrt_jax.training.diagnosis import explain_nonfinite_evaluation
from lrt_jax.training.files import EVALUATIONS, STEP_FILES, write_json
from lrt_jax.training.setup import Run

logger = logging.getLogger(__name__)

FIELDS = (
    *HEADLINE,
    "accuracy_greedy",
    "accuracy_greedy_ci95",
    "accuracy_reward_model",
    "truncated",
    "completion_length",
)
LATER_FIELDS = (*LATER_HEADLINE, "accuracy_reward_model_ci95", "reward_model_unread")
# What the likeliest trace is like, beside its accuracy: samples may gain what it loses.
OF_GREEDY = ("trace_truth", "contradiction_rate", "listener_confidence")
LATER_OF_GREEDY = (
    "listener_accuracy",
    "held_out_accuracy",
    "held_out_contradiction_rate",
    "held_out_contradiction_soft",
)


def evaluation_path(workdir: Path, step: int, split: str | None = None) -> Path:
    """Where the evaluation after a step is kept.

    Args:
      workdir: of the run.
      step: after which the policy was evaluated.
      split: a further one; None for `eval.split`.
    """
    folder = workdir / EVALUATIONS
    return step_file(folder / split if split else folder, step, STEP_FILES[EVALUATIONS])


def read_evaluations(workdir: Path) -> list[dict]:
    """What `evaluate_once` wrote of every step so far, in order.

    Raises:
      ValueError: a file is not what it wrote.
    """
    files = step_files(workdir / EVALUATIONS, STEP_FILES[EVALUATIONS])
    return [_read(path, step) for step, path in files.items()]


def _read(path: Path, step: int) -> dict:
    with read_plainly(path, f"restore the run's evaluation of step {step}, or move this away"):
        content = read_json(path)
        if content["step"] != step:
            raise ValueError(f"it is of step {content['step']}")
        headline(content)  # a missing field is an error before the run counts on it
        for mode in MODES:
            predictions_from_dict(content["judgements"][mode])
    return content


def evaluate_once(
    run: Run, state: TrainState, workdir: Path, step: int, split: str | None = None
) -> dict:
    """Evaluates the state after `step` steps, or reads what an earlier call wrote.

    Args:
      run: whose split.
      state: of the policy.
      workdir: of the run.
      step: steps so far.
      split: a further one; None for `eval.split`.

    Returns:
      What the file holds, see `read_evaluation`.
    """
    path, of_split = evaluation_path(workdir, step, split), f", {split}" if split else ""
    title = f"evaluation after {step} steps{of_split}"
    if processes.broadcast(title, path.is_file()):
        return read_evaluation(workdir, step, split)
    found = evaluate_params(run, state.params, title, "full", split)
    content = sealed({"step": step, **found})
    write_json(path, content)
    logger.info(describe(content, f"step {step}{of_split}"))
    if split is None:
        log_listeners_at_chance(content, f"step {step}")
    return content


def evaluate_others(run: Run, state: TrainState, workdir: Path, step: int) -> dict[str, dict]:
    """Evaluates the state on the further splits, each once as `evaluate_once`.

    Returns:
      What the files hold, by split.
    """
    splits = run.config.evaluated_splits[1:]
    return {split: evaluate_once(run, state, workdir, step, split) for split in splits}


def log_listeners_at_chance(content: Mapping, name: str) -> None:
    """Logs a line about listeners that may be guessing, where an evaluation asked any such."""
    if guessing := list(listeners_at_chance(content)):
        logger.info(
            f"{name}: {' and '.join(guessing)} may be guessing: without a trace as with one, the "
            "accuracy cannot be told from one half, so that confidence and contradiction say "
            "little of the reasoning"
        )


def listeners_at_chance(content: Mapping) -> Iterator[str]:
    """Listeners whose accuracy cannot be told from one half, without a trace and with one."""
    for name, field in LISTENERS.items():
        bounds = [content.get(f"{x}_ci95") for x in (f"{field}_alone", field)]
        if all(x is not None and x[0] <= 0.5 <= x[1] for x in bounds):
            yield name


LISTENERS = {"the listener": "listener_accuracy", "the held-out listener": "held_out_accuracy"}


def best_step(workdir: Path) -> int | None:
    """Step of the best evaluation after training began, by sampled accuracy; the last of equals."""
    scored = [
        (x["accuracy"], x["step"])
        for x in read_evaluations(workdir)
        if x["step"] and x["accuracy"] is not None
    ]
    return max(scored)[1] if scored else None


def read_evaluation(workdir: Path, step: int, split: str | None = None) -> dict:
    """What `evaluate_once` wrote, see `Evaluation.to_dict`; the first process alone reads it.

    Raises:
      FileNotFoundError: the file is gone.
      ValueError: it is not what `evaluate_once` wrote.
    """
    path = evaluation_path(workdir, step, split)
    if not processes.is_first():
        return {}
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file, and the run it belongs to has moved on")
    return _read(path, step)


def read_others(config: Config, workdir: Path, step: int) -> dict[str, dict]:
    """As `read_evaluation`, of each further split."""
    return {x: read_evaluation(workdir, step, x) for x in config.evaluated_splits[1:]}


def evaluate_params(
    run: Run,
    params: Mapping,
    title: str,
    weights: SamplingWeights = "full",
    split: str | None = None,
) -> dict:
    """Evaluates parameters on a split.

    Args:
      run: whose split.
      params: of the policy.
      title: of the progress bar.
      weights: of the copy that is sampled from, see `SamplingOptions`.
      split: a further one, of which the held-out listener is not asked; None for the config's
        first.

    Raises:
      FloatingPointError: a number of the policy or of a listener is not finite.
    """
    loader = run.eval_loader(split)
    bar = progress_bar(title, 2 * loader.pairs, "predictions")
    parts = (run.engine, params, loader, run.prepared, run.sampling)
    options = {"truth": run.truth.score if run.truth else None, "held_out": split is None}
    with bar:
        try:
            evaluation = evaluate(*parts, weights=weights, progress=bar.update, **options)
        except NotFiniteError as error:
            raise explain_nonfinite_evaluation(error, run, title) from error
    return evaluation.to_dict()


def headline(content: Mapping) -> dict:
    """The fields that stand in `results.json`.

    Raises:
      ValueError: what was read from a file is not what `evaluate_once` wrote.
    """
    check_seal(content)
    greedy, endings = content["greedy"], ("", "_ci95")
    later = {name: content.get(name) for name in LATER_FIELDS}  # not in older files
    return {
        **{name: content[name] for name in FIELDS},
        **later,
        **{f"{x}_greedy{end}": greedy[f"{x}{end}"] for x in OF_GREEDY for end in endings},
        **{f"{x}_greedy{end}": greedy.get(f"{x}{end}") for x in LATER_OF_GREEDY for end in endings},
    }


def summary(
    config: Config,
    before: Mapping,
    after: Mapping,
    others: Mapping[str, tuple[Mapping, Mapping]] | None = None,
) -> dict:
    """What `results.json` says of a run that began and ended with these evaluations.

    Args:
      config: of the run.
      before: the evaluation of `eval.split` before training.
      after: that after it.
      others: both of each further split.
    """
    return {
        "algorithm": name_of(config),
        "preset": config.preset,
        "steps": config.steps,
        "split": config.eval.split,
        **_compared(before, after),
        "splits": {name: _compared(*both) for name, both in (others or {}).items()},
    }


def _compared(before: Mapping, after: Mapping) -> dict[str, dict]:
    return {"before": headline(before), "after": headline(after) | gains(before, after)}


def measured(config: Config, workdir: Path, step: int) -> dict | None:
    """What `results.json` says, or would, had the run ended after a step.

    Returns:
      As `summary`; None where that step was not evaluated.
    """
    first, *further = (None, *config.evaluated_splits[1:])
    both = _both(workdir, step, first)
    if both is None:
        return None
    others = {split: _both(workdir, step, split) for split in further}
    return summary(config, *both, {name: x for name, x in others.items() if x is not None})


def _both(workdir: Path, step: int, split: str | None) -> list[dict] | None:
    """The evaluations before training and after a step; None where one was not made."""
    paths = {x: evaluation_path(workdir, x, split) for x in (0, step)}
    if not all(path.is_file() for path in paths.values()):
        return None
    return [_read(paths[x], x) for x in (0, step)]


def gains(before: Mapping, after: Mapping) -> dict:
    """What changed on the same pairs, with intervals clustered by prompt.

    `accuracy_gain` and `accuracy_gain_ci95` are of sampled accuracy; `gains` holds every measure,
    of the samples and, with `_greedy` behind its name, of the likeliest traces, with the number of
    predictions that have a value both times and of those that have one only once.
    """
    every = {}
    for mode in MODES:
        first, last = (predictions_from_dict(x["judgements"][mode]) for x in (before, after))
        for name in ROW_METRICS:
            field = name if mode == "sampled" else f"{name}_{mode}"
            every[field] = paired_gain(first, last, name)._asdict()
    every["accuracy_reward_model"] = every["accuracy_two_orders_greedy"]
    sampled = every["accuracy"]
    accuracy = {"accuracy_gain": sampled["gain"], "accuracy_gain_ci95": sampled["ci95"]}
    return {**accuracy, "gains": every}


def plot_run(config: Config, workdir: Path) -> None:
    """Draws `curves.png` of all steps and evaluations so far."""
    if processes.is_first():
        panels = algorithm_of(config).panels
        title = f"{name_of(config)}, {config.model.path} on {config.data.source}"
        draw_curves(workdir, title, panels, read_metrics(workdir), read_evaluations(workdir))


def describe(content: Mapping, name: str) -> str:
    """One line about an evaluation."""

    def share(field: str) -> str:
        value = content[field]
        return "-" if value is None else f"{value:.3f}"

    unread = content["reward_model_unread"]
    cut = round(content["truncated"] * 2 * content["pairs"])
    low_high = content["accuracy_ci95"]
    interval = f" [{low_high[0]:.3f}, {low_high[1]:.3f}]" if low_high else ""
    return (
        f"{name}: accuracy {share('accuracy')}{interval} sampled, "
        f"{share('accuracy_greedy')} greedy, "
        f"{share('accuracy_reward_model')} as reward model"
        + (f" ({unread} with an unread order, so wrong)" if unread else "")
        + "; contradiction "
        f"{share('contradiction_rate')}; first position {share('first_position_rate')}; "
        f"{content['unparsed']} of {2 * content['pairs']} predictions unparsed"
        + (f", {cut} cut at max_completion_length" if cut else "")
    )
