"""Where numbers went wrong, in the words of the data."""

from lrt_jax.data.dataset.mixture import DataSet
from lrt_jax.data.schema import Target
from lrt_jax.rl.nonfinite import NotFiniteError, named
from lrt_jax.training.setup import Run


def explain_nonfinite(
    error: NotFiniteError, prepared: DataSet, target: Target, step: int
) -> FloatingPointError:
    """The error to end a run with: step, number, pairs, and what to do."""
    pairs = named(prepared, [target.pair[row] for row in error.rows])
    where = f"in {pairs}" if pairs else "in no pair of its own"
    # Later ones were good in the steps before, and those of a checkpoint are held to checksums.
    weights = "fetch the model's weights again, which may be damaged, " if step == 1 else ""
    return FloatingPointError(
        f"step {step}: {error.what}; {where}. Nothing of this step was kept, and the same command "
        f"goes on from the last checkpoint: look at these pairs, {weights}or begin anew in "
        "another --workdir with a lower optimizer.learning_rate"
    )


def explain_nonfinite_evaluation(error: NotFiniteError, run: Run, title: str) -> FloatingPointError:
    """The error to end an evaluation with: number, pairs, models, and what to do."""
    listeners = dict.fromkeys(
        x.frozen.checkpoint for x in run.engine.asked_listeners(held_out=True)
    )
    listened = f", listened to by {' and '.join(listeners)}" if listeners else ""
    return FloatingPointError(
        f"{title}, model {run.folder}{listened}: {error.what}. Weights or what is computed with "
        "them overflow, so nothing was evaluated: evaluate another model or an earlier checkpoint, "
        "or train anew in another --workdir with a lower optimizer.learning_rate"
    )
