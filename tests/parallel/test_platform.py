"""A start without a TPU neither waits for one nor talks about it."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from lrt_jax.parallel.platform import check_devices, tpu_attached

USES_A_DEVICE = {
    "a mesh": "from lrt_jax.parallel.mesh import one_device_mesh; one_device_mesh()",
    "a loss alone": "import lrt_jax.rl.losses, jax.numpy as jnp; jnp.zeros(1)",
}


@pytest.mark.parametrize("code", USES_A_DEVICE.values(), ids=USES_A_DEVICE)
@pytest.mark.skipif(tpu_attached(), reason="this machine has a TPU")
def test_quiet_and_quick_without_a_tpu(code):
    environment = {k: v for k, v in os.environ.items() if k not in ("JAX_PLATFORMS", "XLA_FLAGS")}
    done = subprocess.run(
        [sys.executable, "-c", f"{code}; print('used')"],
        capture_output=True,
        text=True,
        timeout=60,
        env=environment,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "used\n", "")


@pytest.mark.parametrize("raised", [AssertionError(), RuntimeError("Unknown backend\n 'cuda'")])
def test_devices_that_there_are_not_are_told_with_the_remedy(monkeypatch, raised):
    """JAX asserts that it has a device, without a word, where a GPU is asked for and missing."""

    def devices():
        raise raised

    monkeypatch.setattr(jax, "devices", devices)
    with pytest.raises(ValueError, match="JAX_PLATFORMS=.*no device to run on.*JAX_PLATFORMS=cpu"):
        check_devices()


INTERRUPTED = "import os, signal, time; os.kill(os.getpid(), signal.SIGINT); time.sleep(9)"


@pytest.mark.parametrize("command", [True, False])
def test_ctrl_c_while_a_command_is_imported_ends_it_with_a_line(tmp_path, command):
    """A program that imports the package keeps its own way."""
    (tmp_path / "jax.py").write_text(INTERRUPTED)
    how = ["-m", "lrt_jax.main"] if command else ["-c", "import lrt_jax.models"]
    done = subprocess.run(
        [sys.executable, *how],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=Path(__file__).parents[2],
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    if command:
        assert (done.returncode, done.stderr) == (130, "stopped by Ctrl-C; nothing had begun\n")
    else:
        assert done.returncode != 0 and "KeyboardInterrupt" in done.stderr
