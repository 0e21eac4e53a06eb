"""Which of JAX's platforms to start where there is no TPU."""

import glob
import importlib.metadata
import os
import sys


def tpu_attached() -> bool:
    """Whether this machine has TPU chips."""
    return bool(glob.glob("/dev/accel*") or glob.glob("/dev/vfio/[0-9]*"))


def leave_out_missing_tpu() -> None:
    """Keeps JAX from starting the TPU runtime where there is no TPU.

    `jax[tpu]` is installed on machines without one too. There the runtime would ask the cloud's
    metadata server for it, which can take minutes, and then tell of its failure at length. What
    `JAX_PLATFORMS` says goes before; nothing happens once JAX has started.
    """
    if "JAX_PLATFORMS" in os.environ or tpu_attached():
        return
    platforms = "cuda,cpu" if _cuda_ready() else "cpu"
    os.environ["JAX_PLATFORMS"] = platforms
    os.environ["TPU_SKIP_MDS_QUERY"] = "1"
    if "jax" in sys.modules:  # it has read its environment already
        sys.modules["jax"].config.update("jax_platforms", platforms)


def _cuda_ready() -> bool:
    """Whether there is an NVIDIA GPU, and JAX's plugin for it."""
    plugins = importlib.metadata.entry_points(group="jax_plugins")
    return bool(glob.glob("/dev/nvidia[0-9]*")) and any("cuda" in p.name for p in plugins)
