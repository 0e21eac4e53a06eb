"""Attention: one door, and behind it the kernels of each platform."""

import jax.numpy as jnp
from jax.typing import DTypeLike

from lrt_jax.config import choices
from lrt_jax.models.attention.api import Attention, GroupSizes, KeyValues
from lrt_jax.models.attention.cudnn import CuDNN
from lrt_jax.models.attention.splash import Splash
from lrt_jax.models.attention.xla import XLA, KVSegment, merged_attention

__all__ = [
    "XLA",
    "Attention",
    "GroupSizes",
    "KVSegment",
    "KeyValues",
    "attention_for",
    "merged_attention",
]

GPUS = ("gpu", "cuda")  # as JAX calls them


def attention_for(
    name: choices.AttentionKernels, platform: str, dtype: DTypeLike = jnp.float32
) -> Attention:
    """The kernels of a name.

    Args:
      name: `auto` takes those that are made for the platform and the dtype.
      platform: of the devices, as JAX calls it.
      dtype: of activations.

    Raises:
      ValueError: splash on another platform than a TPU; cuDNN on another than a GPU, or in float32.
    """
    cudnn_runs = platform in GPUS and jnp.dtype(dtype) == jnp.bfloat16
    if name == "auto":
        name = "splash" if platform == "tpu" else "cudnn" if cudnn_runs else "xla"
    if name == "splash" and platform != "tpu":
        raise ValueError(
            f"model.attention: splash needs a TPU, and here is {platform}; leave the field at auto"
        )
    if name == "cudnn" and not cudnn_runs:
        raise ValueError(
            "model.attention: cudnn needs an NVIDIA GPU and model.dtype=bfloat16, and here are "
            f"{platform} and {jnp.dtype(dtype)}; leave the field at auto"
        )
    return {"splash": Splash, "cudnn": CuDNN, "xla": XLA}[name]()
