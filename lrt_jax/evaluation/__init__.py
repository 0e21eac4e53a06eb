"""Judging pairs of images: the protocol, its metrics and the scorer people call."""
