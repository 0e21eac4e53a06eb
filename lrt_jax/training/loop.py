"""A run, from a config to results. Read `train` first: it is the whole run in order.

Each step takes a Batch and the TrainState, and returns a new one. What becomes of the batch
(Rollout -> Completions -> RewardInputs -> Rewards -> advantages -> Experience) is `GRPO.step`.
"""

import logging
import time
from functools import partial
from pathlib import Path

from etils import epath

from lrt_jax.algorithms import algorithm_of
from lrt_jax.config import Config, steps_of
from lrt_jax.parallel import processes
from lrt_jax.parallel.collectives import all_gather_rows, any_process
from lrt_jax.reporting.metrics import read_metrics
from lrt_jax.reporting.profiler import Profiler
from lrt_jax.reporting.results import results_table
from lrt_jax.rl.nonfinite import NotFiniteError
from lrt_jax.storage.disk import read_json, read_plainly
from lrt_jax.storage.workdir import CHECKPOINTS, EXPORT, Workdir
from lrt_jax.training.checkpoint import Checkpointer, abstract_state
from lrt_jax.training.diagnosis import explain_nonfinite
from lrt_jax.training.evaluations import (
    best_step,
    evaluate_once,
    evaluate_others,
    plot_run,
    read_evaluation,
    read_others,
    summary,
)
from lrt_jax.training.export import check_exportable, export_params, record_settings
from lrt_jax.training.files import (
    check_same_config,
    check_same_inputs,
    delete_after,
    record_config,
    recorded_config,
    run_digests,
    write_json,
)
from lrt_jax.training.setup import open_run
from lrt_jax.training.step_logger import StepLogger
from lrt_jax.training.stopping import Stopper

logger = logging.getLogger(__name__)

RESULTS = "results.json"


def train(config: Config, workdir: Workdir, *, allow_changes: bool = False) -> dict:
    """Trains, evaluates and exports; goes on where an earlier call with this workdir stopped.

    What happens is logged, a line each.

    Args:
      config: of the run.
      workdir: of the run. Checkpoints of one in a bucket go there at once.
      allow_changes: go on although fields differ that change no parameter.

    Returns:
      What `results.json` holds.

    Raises:
      SystemExit: somebody asked the run to stop; what it had done is saved.
      FloatingPointError: a number is not finite; the last checkpoint is as it was.
    """
    began, folder = time.monotonic(), workdir.folder
    workdir.pull()
    check_same_config(config, folder, allow_changes=allow_changes)
    if results := processes.broadcast("results", read_results(workdir.address, config.steps)):
        remedy = "another one wants another --workdir"
        logger.info(f"{workdir.address}: this run has ended already; {remedy}")
        return results
    run, params = open_run(config, folder, barrier=workdir.barrier)
    check_same_inputs(run.input_digests, folder)
    algorithm = algorithm_of(config)(run)
    state = algorithm.init(params)
    del params  # the state's from here on

    with (
        Checkpointer(
            workdir.address,
            config.keep_checkpoints,
            partial(best_step, folder),
            run_digests(config, run.input_digests),
        ) as checkpointer,
        run.train_loader(algorithm.demonstration_encoder()) as data,
        Stopper(unsaved=lambda: checkpointer.has_unsaved_steps) as stopper,
    ):
        done = _steps_done(checkpointer, config, folder)
        record_config(config, run.input_digests, folder)
        record_settings(run, folder)
        if processes.is_first():
            check_exportable(folder)
        if done:
            abstract, state = abstract_state(state), None  # makes room for what is restored
            state = checkpointer.restore(done, abstract, data)
            logger.info(f"going on from the checkpoint of step {done}")
        delete_after(folder, done)
        workdir.barrier("what a killed run left is deleted")
        ties = ", ties left out" if config.data.target == "hard" else ""
        logger.info(f"training on {data.pairs:,} pairs of split {config.data.train_split!r}{ties}")
        if not done or due(done, config.eval.every, config.steps):
            evaluate_once(run, state, folder, done)  # or made already, before a stop
        if not done:
            evaluate_others(run, state, folder, done)
        before, others_before = read_evaluation(folder, 0), read_others(config, folder, 0)
        earlier_seconds = _seconds_until(done, folder) if processes.is_first() else 0.0

        with (
            StepLogger(algorithm, folder, done) as step_logger,
            Profiler(steps_of(config.profile), folder) as profiler,
        ):
            for step in range(done + 1, config.steps + 1):
                batch = next(data)
                try:
                    with profiler.step(step):
                        state, result = algorithm.step(state, batch, step, step_logger.monitor)
                except NotFiniteError as error:  # in all processes: metrics are replicated
                    target = all_gather_rows(batch.target, run.engine.mesh)
                    raise explain_nonfinite(error, run.prepared, target, step) from error
                checkpointer.step_done(step)
                step_logger.record(step, result)
                stop = any_process(stopper.asked, run.engine.mesh)
                evaluates = due(step, config.eval.every, config.steps)
                if stop or evaluates or due(step, config.checkpoint_every, config.steps):
                    plot_run(config, folder)
                    workdir.barrier(f"step {step} is recorded")  # before a checkpoint counts on it
                    checkpointer.save(step, state, data)
                if stop:
                    checkpointer.wait()
                    stopper.end(step, config.steps)
                if evaluates:
                    evaluate_once(run, state, folder, step)

        after = evaluate_once(run, state, folder, config.steps)
        others = evaluate_others(run, state, folder, config.steps)
        export_params(state.params, folder / EXPORT, folder, step=config.steps)
    workdir.barrier("the model is exported")  # before the results say so
    seconds = time.monotonic() - began + earlier_seconds
    both = {name: (others_before[name], content) for name, content in others.items()}
    results = _conclude(config, workdir, (before, after, both), seconds)
    workdir.barrier("the run is concluded")
    return results


def _steps_done(checkpointer: Checkpointer, config: Config, workdir: Path) -> int:
    """How many steps the last checkpoint holds, as the first process sees it."""
    done = processes.broadcast("steps done", checkpointer.latest_step or 0)
    if done > config.steps:
        where = checkpointer.folder.parent
        raise ValueError(f"{where}: has done {done} steps, more than steps={config.steps}")
    if done:
        recorded_config(workdir)  # raises where nothing says whose checkpoints these are
    return done


def _conclude(config: Config, workdir: Workdir, evaluations: tuple, seconds: float) -> dict:
    """Writes what came of a run, and broadcasts it.

    Args:
      config: of the run.
      workdir: of the run.
      evaluations: as `summary` takes them.
      seconds: that it has taken.
    """
    results = None
    if processes.is_first():
        results = {
            **summary(config, *evaluations),
            "seconds": round(seconds, 1),
            "checkpoint": f"{workdir.address}/{CHECKPOINTS}/{config.steps}",
            "export": f"{workdir.address}/{EXPORT}",
        }
        write_json(workdir.folder / RESULTS, results)
        plot_run(config, workdir.folder)
    return processes.broadcast("results", results)


def _seconds_until(done: int, workdir: Path) -> float:
    """What the steps so far have taken, as far as there are lines about them."""
    lines = [line for line in read_metrics(workdir) if line["step"] <= done]
    if len(lines) < done:
        logger.info(f"note: {done - len(lines)} of {done} steps are missing in metrics.jsonl")
    return sum(line["seconds/step"] for line in lines)


def read_results(address: str, steps: int) -> dict | None:
    """What `train` wrote when it ended; None where it has not, or what it made is gone.

    Raises:
      ValueError: the file is not what `train` wrote.
    """
    workdir = epath.Path(address)
    made = workdir / RESULTS, workdir / CHECKPOINTS / str(steps), workdir / EXPORT / "config.json"
    whole = all(path.exists() for path in made) and any((workdir / EXPORT).glob("*.safetensors"))
    if not whole:
        return None
    with read_plainly(workdir / RESULTS, "remove it, and the same command writes it anew"):
        results = read_json(workdir / RESULTS)
        results_table(results)  # a missing field is an error here
        steps_done, _ = results["steps"], results["export"]
    return results if steps_done == steps else None


def due(step: int, every: int, last: int) -> bool:
    """Whether something that happens `every` so many steps, and at the last, happens now."""
    return step == last or bool(every and step % every == 0)
