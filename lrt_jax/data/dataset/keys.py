"""What images and pairs are found by in other sets: digests of 64 bits."""

import hashlib
from collections.abc import Sequence

from lrt_jax.data.captions import normalise

HEX = 16  # digits of 64 bits


def image_key(digest: str) -> int:
    """The first 64 bits of the SHA-256 of an image's bytes, which is given in hex."""
    return int(digest[:HEX], 16)


def pair_key(prompt: str, digests: Sequence[str]) -> int:
    """64 bits of a caption, as it is compared, and of two images, whose order is nothing to it."""
    text = "\n".join([*sorted(digests), normalise(prompt)])
    return int(hashlib.sha256(text.encode()).hexdigest()[:HEX], 16)
