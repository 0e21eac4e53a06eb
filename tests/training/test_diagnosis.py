"""What is said of numbers that are not finite."""

import pytest

from lrt_jax.data.dataset.prepared_set import PreparedSet
from lrt_jax.rl.nonfinite import NotFiniteError
from lrt_jax.training.diagnosis import explain_nonfinite


@pytest.mark.parametrize(("step", "suspected"), [(1, True), (2, False)])
def test_weights_are_suspected_before_anything_was_learnt(step, suspected):
    """A bit of a weight that was flipped on a disk is no matter of the learning rate."""
    unopened = object.__new__(PreparedSet)  # no pair of it is named
    told = str(explain_nonfinite(NotFiniteError("kl is nan"), unopened, None, step))
    assert told.startswith(f"step {step}: kl is nan; ")
    assert ("fetch the model's weights again, which may be damaged" in told) == suspected
