"""Importing the functions of learning."""

import os
import subprocess
import sys

import pytest

from lrt_jax.parallel.platform import tpu_attached


@pytest.mark.skipif(tpu_attached(), reason="there is a TPU")
def test_a_user_of_the_losses_alone_starts_no_tpu_runtime():
    code = "import lrt_jax.rl.losses, jax; print(jax.config.jax_platforms)"
    environment = {name: x for name, x in os.environ.items() if name != "JAX_PLATFORMS"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip().endswith("cpu")
