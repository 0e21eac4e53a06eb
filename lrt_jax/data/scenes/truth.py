"""The ground truth of drawn images, for judging what traces say of them."""

import json
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

from lrt_jax.data.scenes.options import TRUTH
from lrt_jax.data.scenes.traces import truth
from lrt_jax.data.tables import PreparedSet


class SceneTruth:
    """What is in the images of a prepared set of scenes; no model is ever shown it.

    Args:
      prepared: the set; it has a `truth.jsonl` beside its tables.
    """

    def __init__(self, prepared: PreparedSet):
        self._prepared = prepared
        lines = (prepared.beside(TRUTH)).read_text(encoding="utf-8").splitlines()
        records = map(json.loads, lines)
        self._objects = {record["key"]: record["objects"] for record in records}
        self._pairs: dict[int, tuple[list[str], list[str]]] = {}

    def shares(
        self,
        pairs: Int[np.ndarray, " B"],
        swapped: Bool[np.ndarray, " B"],
        traces: Sequence[Sequence[str]],
    ) -> Float[np.ndarray, "B G"]:
        """Share of the objects that each trace describes that are in the image it says them of.

        Args:
          pairs: rows of the pairs table.
          swapped: whether a pair was shown in the opposite of its stored order.
          traces: [B][G] what was said of them.

        Returns:
          NaN for traces that describe nothing.
        """
        return np.array(
            [
                [truth(trace, *self._shown(int(pair), bool(turned))) for trace in row]
                for pair, turned, row in zip(pairs, swapped, traces, strict=True)
            ]
        )

    def _shown(self, pair: int, swapped: bool) -> tuple[list[str], list[str]]:
        if pair not in self._pairs:
            indices = self._prepared.pair(pair).image_index
            self._pairs[pair] = tuple(
                self._objects[self._prepared.image(index).key] for index in indices
            )
        first, second = self._pairs[pair]
        return (second, first) if swapped else (first, second)


def find_truth(prepared: PreparedSet) -> SceneTruth | None:
    """The ground truth of a prepared set, or None for pictures of which it is not known."""
    return SceneTruth(prepared) if prepared.beside(TRUTH).is_file() else None
