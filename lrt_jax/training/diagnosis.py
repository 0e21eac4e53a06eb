"""Where numbers went wrong, in the words of the data."""

from lrt_jax.data.mixture import DataSet
from lrt_jax.data.schema import Target
from lrt_jax.rl.soundness import NotFiniteError

SHOWN = 3  # pairs that are named


def located(
    error: NotFiniteError, prepared: DataSet, target: Target, step: int
) -> FloatingPointError:
    """The error to end a run with: step, number, pairs, and what to do."""
    uids = [prepared.pair(int(target.pair[row])).uid for row in error.rows]
    pairs = ", ".join(uids[:SHOWN]) + f" and {len(uids) - SHOWN} more" * (len(uids) > SHOWN)
    where = f"in {pairs}" if uids else "in no pair of its own"
    # Later ones were good in the steps before, and those of a checkpoint are held to checksums.
    weights = "fetch the model's weights again, which may be damaged, " if step == 1 else ""
    return FloatingPointError(
        f"step {step}: {error.what}; {where}. Nothing of this step was kept, and the same command "
        f"goes on from the last checkpoint: look at these pairs, {weights}or begin anew in "
        "another --workdir with a lower optimizer.learning_rate"
    )
