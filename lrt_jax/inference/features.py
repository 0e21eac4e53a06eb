"""Encoded images: each once, however many comparisons it is in."""

import collections
from collections.abc import Callable, Sequence
from typing import Any

from lrt_jax.inference.requests import ShownImage


class FeatureCache:
    """What the vision towers made of the images of a call, on devices.

    Args:
      encode: features of at most `block` images.
      block: images that are encoded together.
      capacity: images that are kept: those that were asked for last.
    """

    def __init__(
        self,
        encode: Callable[[Sequence[ShownImage]], Sequence[Any]],
        block: int,
        capacity: int,
    ):
        self._encode, self._block, self._capacity = encode, block, capacity
        self._kept: collections.OrderedDict[tuple, Any] = collections.OrderedDict()

    def get(self, images: Sequence[ShownImage]) -> list[Any]:
        """Features of each image; those that are not kept are encoded."""
        missing = {x.key: x for x in images if x.key not in self._kept}
        new = [*missing.values()]
        for start in range(0, len(new), self._block):
            block = new[start : start + self._block]
            features = self._encode(block)
            self._kept.update(zip((x.key for x in block), features, strict=True))
        found = [self._kept[image.key] for image in images]
        for image in images:
            self._kept.move_to_end(image.key)
        while len(self._kept) > self._capacity:
            self._kept.popitem(last=False)
        return found
