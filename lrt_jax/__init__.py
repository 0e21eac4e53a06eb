"""Listener-rewarded reasoning reward models for images, in JAX (arXiv 2506.22832)."""

__version__ = "0.1.0"
