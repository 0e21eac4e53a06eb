"""What a model was trained on, as digests of images and of pairs, so that it is not measured on it.

Digests are of 64 bits and in order, so that those of HPDv2's 430,000 images and 645,000 pairs are
9 MB. Files of equal bytes are one image; copies in another encoding are found when a set is
prepared with `--test_sets`.
"""

import base64
import dataclasses
from collections.abc import Mapping

import numpy as np
from etils import epath
from jaxtyping import Bool, Int, UInt64

from lrt_jax.data.dataset.mixture import DataSet
from lrt_jax.storage.digests import check_seal
from lrt_jax.storage.disk import read_json, read_plainly

LITTLE = np.dtype("<u8")


@dataclasses.dataclass(frozen=True)
class TrainedOn:
    """What a model was trained on."""

    images: UInt64[np.ndarray, " n"]  # `image_key` of every image, in order, each once
    pairs: UInt64[np.ndarray, " m"]  # `pair_key` of every pair, likewise

    @classmethod
    def of(cls, prepared: DataSet, rows: Int[np.ndarray, " k"]) -> "TrainedOn":
        """Keys of the pairs in some rows of the pairs table, and of their images."""
        images = prepared.image_keys[prepared.pair_images[rows]]
        return cls(np.unique(images), np.unique(prepared.pair_keys[rows]))

    @classmethod
    def read(cls, path: epath.PathLike) -> "TrainedOn":
        """Reads a file that `to_json` wrote.

        Raises:
          ValueError: it does not.
        """
        content = read_json(path)
        with read_plainly(path, "restore it, or export the model anew"):
            check_seal(content)
            found = (base64.b64decode(content[name], validate=True) for name in ("images", "pairs"))
            return cls(*(np.frombuffer(x, LITTLE).astype(np.uint64) for x in found))

    def to_json(self) -> Mapping[str, str]:
        """For a JSON file: numbers of 64 bits, least byte first, in base 64."""
        arrays = dataclasses.asdict(self).items()
        return {name: base64.b64encode(x.astype(LITTLE).tobytes()).decode() for name, x in arrays}

    def __or__(self, other: "TrainedOn") -> "TrainedOn":
        return TrainedOn(np.union1d(self.images, other.images), np.union1d(self.pairs, other.pairs))

    def seen(
        self, prepared: DataSet, rows: Int[np.ndarray, " k"]
    ) -> tuple[Bool[np.ndarray, " k"], Bool[np.ndarray, " k"]]:
        """Which rows of a pairs table hold a pair, and which show an image, of these."""
        images = np.isin(prepared.image_keys[prepared.pair_images[rows]], self.images)
        return np.isin(prepared.pair_keys[rows], self.pairs), images.any(axis=-1)
