"""Listener-rewarded reasoning reward models for images, in JAX (arXiv 2506.22832)."""

import os

from lrt_jax.parallel.platform import leave_out_missing_tpu

__version__ = "0.1.0"

leave_out_missing_tpu()
# transformers serves for tokenizers and configs alone here; that it finds no PyTorch is no news.
os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
