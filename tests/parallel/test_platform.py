"""A start without a TPU neither waits for one nor talks about it."""

import os
import subprocess
import sys

import pytest

from lrt_jax.parallel.platform import tpu_attached


@pytest.mark.skipif(tpu_attached(), reason="this machine has a TPU")
def test_quiet_and_quick_without_a_tpu():
    environment = {k: v for k, v in os.environ.items() if k not in ("JAX_PLATFORMS", "XLA_FLAGS")}
    done = subprocess.run(
        [sys.executable, "-c", "import lrt_jax, jax; print(jax.default_backend())"],
        capture_output=True,
        text=True,
        timeout=60,
        env=environment,
    )
    assert done.returncode == 0 and done.stdout.strip() in ("cpu", "gpu")
    assert done.stderr == ""
