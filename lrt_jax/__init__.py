"""Listener-rewarded reasoning reward models for images, in JAX (arXiv 2506.22832)."""

from lrt_jax.parallel.platform import leave_out_missing_tpu

__version__ = "0.1.0"

leave_out_missing_tpu()
