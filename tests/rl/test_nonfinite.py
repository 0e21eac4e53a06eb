"""Numbers that are not finite are found, and their rows named."""

import jax.numpy as jnp
import numpy as np
import pytest

from lrt_jax.rl.nonfinite import NotFiniteError, check_metrics, nonfinite_rows

MASK = jnp.array([[[True, True, False]]] * 4)


def logps(row, place, value):
    values = np.full(MASK.shape, -1.0, np.float32)
    values[row, 0, place] = value
    return jnp.asarray(values)


def test_a_row_is_unsound_by_any_of_its_numbers_but_not_by_padding():
    first, other = logps(1, 0, np.nan), logps(2, 1, -np.inf)
    assert nonfinite_rows(MASK, first, None, other).tolist() == [False, True, True, False]
    assert nonfinite_rows(MASK, other, None, first).tolist() == [False, True, True, False]
    assert not nonfinite_rows(MASK, logps(3, 2, np.nan)).any()


def test_metrics_that_are_not_finite_are_all_named_with_the_rows():
    rows = np.array([False, True, False, True])
    with pytest.raises(NotFiniteError, match=r"loss is nan, kl is inf, in rows \[1, 3\]") as told:
        check_metrics({"loss": np.nan, "ratio": 1.0, "kl": np.inf}, rows)
    assert told.value.rows == (1, 3)
    with pytest.raises(NotFiniteError, match="^loss is nan$"):
        check_metrics({"loss": np.nan}, rows & False)
    check_metrics({"loss": 0.0}, rows)
