"""Evaluations as a run keeps them."""

import pytest

from lrt_jax.training.evaluations import read_evaluation


def test_an_evaluation_that_is_gone_is_told_with_the_reason(tmp_path):
    with pytest.raises(FileNotFoundError, match="step-000003.json: no such file, and the run it"):
        read_evaluation(tmp_path, 3)
