"""An encoder of pairs that needs no tokenizer."""

import dataclasses

import numpy as np

from lrt_jax.data.input.pairs import PairEncoder
from lrt_jax.data.input.patches import ImagePolicy
from lrt_jax.models.inputs import Prompt
from lrt_jax.models.qwen2_5_vl.config import VisionConfig

VISION = VisionConfig(
    depth=1,
    hidden_size=8,
    intermediate_size=8,
    num_heads=1,
    out_hidden_size=8,
    full_attention_layers=(),
)
POLICY = ImagePolicy(28 * 28, 64 * 196, 64)


@dataclasses.dataclass(frozen=True)
class WordCounter:
    """Stands for a PromptEncoder: writes the caption's length and the grids into the tokens."""

    bucket: int

    def encode(self, caption, grids, criterion):
        if len(caption) > 1000:
            raise ValueError("a prompt does not fit into its bucket")
        tokens = np.zeros(self.bucket, np.int32)
        tokens[:5] = len(caption), *grids[0], *grids[1]
        return Prompt(
            tokens=tokens,
            positions=np.zeros((3, self.bucket), np.int32),
            image_index=np.full(self.bucket, -1, np.int32),
            length=np.int32(5),
        )


ENCODER = PairEncoder(POLICY, VISION, WordCounter(16), (WordCounter(24),))
