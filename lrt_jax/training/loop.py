"""Training, from a config to results. Read `train` first: it is the whole run in order.

source record -> PairRecord -> Example (host) -> Batch (device) -> Rollout (tokens, log-probs)
-> Completions (text) -> Verdicts -> Rewards -> advantages -> Experience -> TrainState
"""

import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import jax
import numpy as np
from etils import epath

from lrt_jax.algorithms.state import TrainState
from lrt_jax.algorithms.supervised import Study, SupervisedUpdater
from lrt_jax.algorithms.update import Updater
from lrt_jax.config import Config
from lrt_jax.data.schema import FIRST, SECOND, Batch, Target
from lrt_jax.parallel import processes
from lrt_jax.parallel.collectives import (
    anywhere,
    rows_of_all,
    rows_to_devices,
    whole_rows_to_devices,
)
from lrt_jax.reporting.metrics import read_metrics
from lrt_jax.reporting.results import results_table
from lrt_jax.rl.advantages import group_advantages
from lrt_jax.rl.completions import Completions
from lrt_jax.rl.engine import Heard
from lrt_jax.rl.learner import Experience
from lrt_jax.rl.rewards import Verdicts, combine
from lrt_jax.rl.rollout import Rollout
from lrt_jax.rl.soundness import NotFiniteError
from lrt_jax.storage.disk import read_json, read_plainly
from lrt_jax.storage.workdir import CHECKPOINTS, EXPORT, Home
from lrt_jax.training.checkpoint import Checkpointer, abstract
from lrt_jax.training.diagnosis import located
from lrt_jax.training.evaluations import (
    best_step,
    draw_run,
    evaluate_once,
    read_evaluation,
    summary,
)
from lrt_jax.training.export import export_params, record_settings, try_export
from lrt_jax.training.files import (
    check_same_config,
    check_same_inputs,
    cut_back,
    record_config,
    recorded_config,
    run_digests,
    write_json,
)
from lrt_jax.training.monitor import Monitor
from lrt_jax.training.setup import Run, make_learner, open_run
from lrt_jax.training.step_report import Outcome, Recorder, Studied
from lrt_jax.training.stopping import Stopper

RESULTS = "results.json"
STREAM = 0  # of random numbers; evaluation has another


def train(
    config: Config,
    home: Home,
    say: Callable[[str], None] = print,
    *,
    allow_changes: bool = False,
) -> dict:
    """Trains, evaluates and exports; goes on where an earlier call with this workdir stopped.

    Args:
      config: of the run.
      home: its workdir. Checkpoints of one in a bucket go there at once.
      say: told, a line each, what happens.
      allow_changes: go on although fields differ that change no parameter.

    Returns:
      What `results.json` holds.

    Raises:
      SystemExit: somebody asked the run to stop; what it had done is saved.
      FloatingPointError: a number is not finite; the last checkpoint is as it was.
    """
    began, workdir = time.monotonic(), home.folder
    home.pull()
    check_same_config(config, workdir, allow_changes=allow_changes)
    if results := processes.told("results", read_results(home.address, config.steps)):
        say(f"{home.address}: this run has ended already; another one wants another --workdir")
        return results
    run, params = open_run(config, workdir, say, meet=home.meet)
    inputs = run.inputs
    check_same_inputs(inputs, workdir)
    state, updater = make_learner(run, params)
    del params  # the state's from here on

    with (
        Checkpointer(
            home.address,
            config.keep_checkpoints,
            partial(best_step, workdir),
            run_digests(config, inputs),
        ) as checkpointer,
        run.train_loader() as data,
        Stopper(say, lambda: checkpointer.behind) as stopper,
    ):
        done = _steps_done(checkpointer, config, workdir)
        record_config(config, inputs, workdir, say)
        record_settings(run, workdir)
        if processes.is_first():
            try_export(workdir)
        if done:
            places, state = abstract(state), None  # makes room for what is read
            state = checkpointer.restore(done, places, data)
            say(f"going on from the checkpoint of step {done}")
        cut_back(workdir, done)
        home.meet("what a killed run left is cut back")
        ties = ", ties left out" if config.data.target == "hard" else ""
        say(f"training on {data.pairs:,} pairs of split {config.data.train_split!r}{ties}")
        if not done or due(done, config.eval.every, config.steps):
            evaluate_once(run, state, workdir, done, say)  # it may be what was stopped
        before = read_evaluation(workdir, 0)
        earlier = _seconds_until(done, workdir, say) if processes.is_first() else 0.0

        take_step = supervised_step if config.algorithm == "sft" else train_step
        with Recorder.open(run, workdir, done, say) as recorder:
            for step in range(done + 1, config.steps + 1):
                batch = next(data)
                try:
                    state, outcome = take_step(run, updater, state, batch, step, recorder.monitor)
                except NotFiniteError as error:
                    target = rows_of_all(batch.target, run.engine.mesh)
                    raise located(error, run.prepared, target, step) from error
                checkpointer.step_done(step)
                recorder.record(step, outcome)
                stop = anywhere(stopper.asked, run.engine.mesh)
                evaluates = due(step, config.eval.every, config.steps)
                if stop or evaluates or due(step, config.checkpoint_every, config.steps):
                    draw_run(config, workdir)
                    home.meet(f"step {step} is recorded")  # before a checkpoint counts on it
                    checkpointer.save(step, state, data)
                if stop:
                    checkpointer.wait()
                    stopper.end(step, config.steps)
                if evaluates:
                    evaluate_once(run, state, workdir, step, say)

        after = evaluate_once(run, state, workdir, config.steps, say)
        export_params(state.params, workdir / EXPORT, workdir, step=config.steps)
    home.meet("the model is exported")  # before the results say so
    seconds = time.monotonic() - began + earlier
    results = _conclude(config, home, before, after, seconds)
    home.meet("the run is concluded")
    return results


def _steps_done(checkpointer: Checkpointer, config: Config, workdir: Path) -> int:
    """How many steps the last checkpoint holds, as the first process sees it."""
    done = processes.told("steps done", checkpointer.latest_step or 0)
    if done > config.steps:
        where = checkpointer.folder.parent
        raise ValueError(f"{where}: has done {done} steps, more than steps={config.steps}")
    if done:
        recorded_config(workdir)  # whose they are
    return done


def _conclude(config: Config, home: Home, before: Mapping, after: Mapping, seconds: float) -> dict:
    """Writes what came of a run, and tells it to all processes."""
    results = None
    if processes.is_first():
        results = {
            **summary(config, before, after),
            "seconds": round(seconds, 1),
            "checkpoint": f"{home.address}/{CHECKPOINTS}/{config.steps}",
            "export": f"{home.address}/{EXPORT}",
        }
        write_json(home.folder / RESULTS, results)
        draw_run(config, home.folder)
    return processes.told("results", results)


def _seconds_until(done: int, workdir: Path, say: Callable[[str], None]) -> float:
    """What the steps so far have taken, as far as there are lines about them."""
    lines = [line for line in read_metrics(workdir) if line["step"] <= done]
    if len(lines) < done:
        say(f"note: {done - len(lines)} of {done} steps are missing in metrics.jsonl")
    return sum(line["seconds/step"] for line in lines)


def read_results(address: str, steps: int) -> dict | None:
    """What `train` wrote when it ended; None where it has not, or what it made is gone.

    Raises:
      ValueError: the file is not what `train` wrote.
    """
    home = epath.Path(address)
    made = home / RESULTS, home / CHECKPOINTS / str(steps), home / EXPORT / "config.json"
    whole = all(path.exists() for path in made) and any((home / EXPORT).glob("*.safetensors"))
    if not whole:
        return None
    with read_plainly(home / RESULTS, "remove it, and the same command writes it anew"):
        results = read_json(home / RESULTS)
        results_table(results)  # a field that is missing is told here
        steps_done, _ = results["steps"], results["export"]
    return results if steps_done == steps else None


def due(step: int, every: int, last: int) -> bool:
    """Whether something that happens `every` so many steps, and at the last, happens now."""
    return step == last or bool(every and step % every == 0)


def train_step(
    run: Run, updater: Updater, state: TrainState, host_batch: Batch, step: int, monitor: Monitor
) -> tuple[TrainState, Outcome]:
    """One rollout, its rewards, and the updates on them. `state` is used up."""
    config, engine = run.config, run.engine
    monitor.begin_step()
    # Nothing may wander between host and device unasked: what moves, moves by name.
    with jax.transfer_guard("disallow"):
        with monitor.stage("rollout"):
            batch = rows_to_devices(host_batch, engine.mesh)
            params = engine.sampling_params(state.params)
            features = engine.look(params, batch)
            rollout = engine.sample(
                params, batch, features[None], config.group_size, run.sampling, STREAM, step
            )
            del params  # the copy for sampling: its memory is wanted below
            completions = engine.read(rollout)
        with monitor.stage("listener"):
            wanted = config.temperature if config.loss.beta else None
            heard = engine.hear(
                batch,
                features,
                rollout,
                completions,
                listening=config.uses_listener,
                reference_temperature=wanted,
            )
        with monitor.stage("update"):
            # From here on every process has all rows: advantages may be scaled over the batch.
            target = rows_of_all(host_batch.target, engine.mesh)
            completions, heard = engine.of_all(completions, heard)
            verdicts = judge(target, completions, heard, config.data.target)
            rewards = combine(verdicts, config.reward_weights)
            advantages = group_advantages(rewards.total, scale=config.rewards.advantage_scale)
            advantages = advantages * target.weight[:, None]  # 1 unless weighted
            experience = gather(run, batch, features[None], rollout, heard, advantages)
            state, metrics = updater.learn(state, experience)
    return state, Outcome(target, completions, heard, verdicts, rewards, advantages, metrics)


def supervised_step(
    run: Run,
    updater: SupervisedUpdater,
    state: TrainState,
    host_batch: Batch,
    step: int,
    monitor: Monitor,
) -> tuple[TrainState, Studied]:
    """One update on the lessons of a batch. `state` is used up."""
    monitor.begin_step()
    with jax.transfer_guard("disallow"), monitor.stage("update"):
        batch = rows_to_devices(host_batch, run.engine.mesh)
        weight = batch.target.weight if run.config.data.pair_weights == "margin" else None
        study = Study(batch.prompt, batch.images, batch.lessons, weight)
        state, metrics = updater.learn(state, study)
    tokens = rows_of_all(np.asarray(host_batch.lessons.length), run.engine.mesh)
    return state, Studied(metrics, int(np.sum(tokens)))


def judge(target: Target, completions: Completions, heard: Heard, kind: str) -> Verdicts:
    """What people, the listeners and the completions say of each pair, side by side."""
    return Verdicts(
        well_formed=completions.well_formed,
        choice=completions.choice,
        listener_p_first=None if heard.p_first is None else heard.p_first.astype(np.float32),
        p_first=hard_target(target) if kind == "hard" else target.p_first,
    )


def hard_target(target: Target) -> np.ndarray:
    """1, 0 or, for a tie, one half: what the majority says of the first image shown."""
    label = target.label
    return np.where(label == FIRST, 1.0, np.where(label == SECOND, 0.0, 0.5)).astype(np.float32)


def gather(
    run: Run, batch: Batch, features, rollout: Rollout, heard: Heard, advantages: np.ndarray
) -> Experience:
    """All that an update needs, on the devices."""
    return Experience(
        prompt=batch.prompt,
        images=None if run.tower_is_frozen else batch.images,
        features=features if run.tower_is_frozen else None,
        tokens=rollout.tokens,
        length=rollout.length,
        sampler_logps=rollout.logps,
        reference_logps=heard.reference_logps,
        old_logps=rollout.logps,
        advantages=whole_rows_to_devices(advantages, run.engine.mesh),
    )
