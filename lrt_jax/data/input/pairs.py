"""One pair: as it is stored, and as the example that it becomes."""

import dataclasses

import numpy as np
from jaxtyping import Float, Int

from lrt_jax.data.dataset.mixture import DataSet
from lrt_jax.data.images import open_rgb, sides
from lrt_jax.data.input.patches import ImagePolicy, encode_pair, is_letterboxed
from lrt_jax.data.input.prompts import PromptEncoder
from lrt_jax.data.schema import FIRST, SECOND, Example, PairRecord, Target
from lrt_jax.models.api import ImageLayout

SWAPPED_LABEL = {FIRST: SECOND, SECOND: FIRST}  # a tie and a missing label stay what they are


@dataclasses.dataclass(frozen=True)
class RawPair:
    """A pair as it is stored."""

    row: int  # of the pairs table, -1 for a pair from elsewhere
    record: PairRecord
    images: tuple[bytes, bytes]  # the files of both
    keys: tuple[str, str]  # what to call them in errors
    weight: float = 1.0  # how much it counts in training


@dataclasses.dataclass(frozen=True)
class PairSource:
    """Random access to some pairs of a prepared set; picklable, opens its files at first use."""

    prepared: DataSet
    rows: Int[np.ndarray, " n"]  # of the pairs table
    weights: Float[np.ndarray, " n"] | None = None  # of these rows; None for 1 each

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> RawPair:
        row = int(self.rows[index])
        record = self.prepared.pair(row)
        first, second = (self.prepared.image(i) for i in record.image_index)
        weight = 1.0 if self.weights is None else float(self.weights[index])
        return RawPair(row, record, (first.image, second.image), (first.key, second.key), weight)


@dataclasses.dataclass(frozen=True)
class PairEncoder:
    """Turns a stored pair into an example, in the stored order or swapped."""

    policy: ImagePolicy  # how images are brought to size
    vision: ImageLayout  # how the models cut images
    prompt: PromptEncoder  # encoder of the reasoner's prompt
    # Encoders of the prompts of listeners with an instruction of their own.
    listener_prompts: tuple[PromptEncoder, ...] = ()

    def encode(self, pair: RawPair, swapped: bool) -> Example:
        """Encodes one pair; what goes wrong names it.

        Args:
          pair: of a `PairSource`, or one from elsewhere.
          swapped: show the image stored second first.

        Raises:
          ImageError: an image that cannot be decoded, or is far too long.
          PromptTooLong: the prompt does not fit into its bucket.
        """
        try:
            return self._encode(pair, swapped)
        except ValueError as error:
            error.add_note(f"in pair {pair.record.uid}, row {pair.row} of the pairs table")
            raise

    def _encode(self, pair: RawPair, swapped: bool) -> Example:
        record, order = pair.record, (1, 0) if swapped else (0, 1)
        names = tuple(pair.keys[i] for i in order)
        shown = [open_rgb(pair.images[i], pair.keys[i])[0] for i in order]
        images, grids = encode_pair(*shown, self.policy, self.vision, names)
        letterboxed = any(
            is_letterboxed(*sides(image), grid, self.policy, self.vision)
            for image, grid in zip(shown, grids, strict=True)
        )
        prompt, *listener_prompts = (
            encoder.encode(record.prompt, grids, record.criterion)
            for encoder in (self.prompt, *self.listener_prompts)
        )
        return Example(
            images=images,
            prompt=prompt,
            listener_prompts=tuple(listener_prompts),
            target=target(record, pair.row, swapped, pair.weight, letterboxed),
        )


def target(
    record: PairRecord, row: int, swapped: bool, weight: float = 1.0, letterboxed: bool = False
) -> Target:
    """What people said of a pair, in the order in which it is shown, and how it is shown."""
    label = SWAPPED_LABEL.get(record.label, record.label) if swapped else record.label
    return Target(
        p_first=np.float32(1 - record.p_first if swapped else record.p_first),
        label=np.int32(label),
        pair=np.int32(row),
        swapped=np.bool_(swapped),
        weight=np.float32(weight),
        letterboxed=np.bool_(letterboxed),
    )
