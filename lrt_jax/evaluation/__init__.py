"""Judging pairs of images: the protocol and its metrics."""
