"""Which of JAX's platforms to start where there is no TPU."""

import functools
import glob
import importlib.metadata
import os


def tpu_attached() -> bool:
    """Whether this machine has TPU chips."""
    return bool(glob.glob("/dev/accel*") or glob.glob("/dev/vfio/[0-9]*"))


@functools.cache
def leave_out_missing_tpu() -> None:
    """Keeps JAX from starting the TPU runtime where there is no TPU.

    `jax[tpu]` is installed on machines without one too. There the runtime would ask the cloud's
    metadata server for it, which can take minutes, and then tell of its failure at length. Whatever
    somebody has chosen already stays chosen, and a plugin that is not known here is left to JAX.
    To be called before the first use of a device, when JAX starts its platforms.
    """
    import jax

    chosen = jax.config.jax_platforms or os.environ.get("JAX_PLATFORMS")
    plugins = {plugin.name for plugin in importlib.metadata.entry_points(group="jax_plugins")}
    if chosen or tpu_attached():
        return
    os.environ["TPU_SKIP_MDS_QUERY"] = "1"
    if not plugins:
        jax.config.update("jax_platforms", "cpu")
    elif all("cuda" in name for name in plugins):
        jax.config.update("jax_platforms", "cuda,cpu" if glob.glob("/dev/nvidia[0-9]*") else "cpu")


def check_devices() -> None:
    """Starts JAX's devices.

    Raises:
      ValueError: there are none of the kind that `JAX_PLATFORMS` names, or they cannot be had.
    """
    import jax

    leave_out_missing_tpu()
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:  # the latter, wordless, for want of a GPU
        chosen = jax.config.jax_platforms or "unset"
        why = " ".join(str(error).split())[:300] or "there is none of that kind"
        raise ValueError(
            f"JAX_PLATFORMS={chosen}: JAX has no device to run on ({why}); see that the device is "
            "there, free, and known to the installed jax, or take another, as by JAX_PLATFORMS=cpu"
        ) from error
