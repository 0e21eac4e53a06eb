"""What a model reads: the images of a batch, and tokenised prompts."""

from flax import struct
from jaxtyping import Array, Int, UInt8


@struct.dataclass
class Images:
    """The two images of every pair, as patches in window order (see `WindowOrder`)."""

    patches: UInt8[Array, "B 2 p d"]  # d = 588 values: channel, row, column of one frame
    coords: Int[Array, "B 2 p 2"]  # row and column of each patch
    window: Int[Array, "B 2 p"]  # attention window; -1 marks padding


@struct.dataclass
class Prompt:
    """A tokenised conversation up to where the answer begins, padded on the right."""

    tokens: Int[Array, "B s"]
    positions: Int[Array, "B 3 s"]  # M-RoPE: time, height, width
    image_index: Int[Array, "B s"]  # merged token of the pair, in [0, 2p/4), or -1 for text
    length: Int[Array, " B"]  # tokens that are not padding, at least 2; the last one is text
