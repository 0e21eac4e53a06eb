"""The ground truth of drawn images, for judging what traces say of them."""

import json
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float32, Int

from lrt_jax.config.scenes import TRUTH
from lrt_jax.data.dataset.mixture import DataSet
from lrt_jax.data.dataset.set_files import REMEDY
from lrt_jax.data.scenes.traces import check
from lrt_jax.storage.disk import read_plainly


class SceneTruth:
    """What is in the images of a prepared set of scenes; no model is ever shown it.

    Args:
      prepared: the set; it has a `truth.jsonl` beside its tables.

    Raises:
      ValueError: that file is not what was drawn; the message names it.
    """

    def __init__(self, prepared: DataSet):
        self._prepared, self._path = prepared, prepared.beside(TRUTH)
        lines = self._path.read_bytes().splitlines()
        with read_plainly(self._path, REMEDY):
            records = map(json.loads, lines)
            self._objects = {record["key"]: record["objects"] for record in records}
        self._pairs: dict[int, tuple[list[str], list[str]]] = {}

    def score(
        self,
        pairs: Int[np.ndarray, " B"],
        swapped: Bool[np.ndarray, " B"],
        traces: Sequence[Sequence[str]],
    ) -> dict[str, Float32[np.ndarray, "B G"]]:
        """What traces describe, held against what is there.

        Args:
          pairs: rows of the pairs table.
          swapped: whether a pair was shown in the opposite of its stored order.
          traces: [B][G] what was said of them.

        Returns:
          trace_objects: how many objects each trace describes.
          trace_truth: share of them that are in the image it says them of; NaN where it says none.
        """
        counts = [
            [check(trace, *self._shown(int(pair), bool(turned))) for trace in row]
            for pair, turned, row in zip(pairs, swapped, traces, strict=True)
        ]
        hits, said = np.moveaxis(np.array(counts, np.float32), -1, 0)
        share = np.divide(hits, said, out=np.full_like(hits, np.nan), where=said > 0)
        return {"trace_truth": share, "trace_objects": said}

    def _shown(self, pair: int, swapped: bool) -> tuple[list[str], list[str]]:
        if pair not in self._pairs:
            indices = self._prepared.pair(pair).image_index
            keys = [self._prepared.image(index).key for index in indices]
            with read_plainly(self._path, REMEDY):
                self._pairs[pair] = tuple(self._objects[key] for key in keys)
        first, second = self._pairs[pair]
        return (second, first) if swapped else (first, second)


def find_truth(prepared: DataSet) -> SceneTruth | None:
    """The ground truth of a prepared set, or None for pictures of which it is not known."""
    return SceneTruth(prepared) if prepared.beside(TRUTH).is_file() else None
