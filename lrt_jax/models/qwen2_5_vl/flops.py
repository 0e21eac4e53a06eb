"""What Qwen2.5-VL's computations are worth in floating-point operations; see `api.Flops`."""

import dataclasses

from lrt_jax.models.api import Flops
from lrt_jax.models.qwen2_5_vl.config import ModelConfig


@dataclasses.dataclass(frozen=True)
class FlopCounter:
    """See `api.FlopCounter`. Causal attention counts half, windows count by their size.

    Kernels compute windows as masked full attention.
    """

    config: ModelConfig

    def encode_images(self, images: int, patches: int) -> Flops:
        """The tower and its merger; the patch kernel is summed over its frames first."""
        c = self.config.vision
        width, merged = c.hidden_size, c.merge_unit * c.hidden_size
        layer = 4 * width**2 + 3 * width * c.intermediate_size
        weights = c.depth * layer + c.patch_dim * width  # that every patch meets
        merger = merged**2 + merged * c.out_hidden_size
        full = len(c.full_attention_layers)
        seen = full * patches + (c.depth - full) * min(c.window_patches, patches)
        return Flops(
            products=2.0 * images * (patches * weights + patches // c.merge_unit * merger),
            attention=4.0 * images * patches * width * seen,
            masked=4.0 * images * patches * width * (c.depth * patches - seen),
        )

    def prefill(self, batch: int, prompt: int) -> Flops:
        """A token sees half of the prompt on average."""
        return self._tokens(batch * prompt, seen=prompt / 2)

    def decode(self, batch: int, group: int, prompt: int, tokens: int) -> Flops:
        """A token sees the prompt and half of its completion on average."""
        count = batch * group * tokens
        return self._tokens(count, seen=prompt + tokens / 2) + self.logits(count)

    def score_group(self, batch: int, group: int, prompt: int, tokens: int) -> Flops:
        """Prompts once, and every completion."""
        suffixes = self._tokens(batch * group * tokens, seen=prompt + tokens / 2)
        return self.prefill(batch, prompt) + suffixes

    def logits(self, tokens: int) -> Flops:
        """The head is a product with the vocabulary's table."""
        c = self.config.text
        return Flops(products=2.0 * tokens * c.vocab_size * c.hidden_size)

    def cache_values(self, batch: int, group: int, prompt: int, tokens: int) -> float:
        """Keys and values of the prompts, and of half of each completion."""
        c = self.config.text
        of_a_token = 2 * c.num_layers * c.num_kv_heads * c.head_dim
        return of_a_token * batch * (prompt + group * tokens / 2)

    def _tokens(self, count: int, seen: float) -> Flops:
        """Tokens through all layers, each of which attends to so many."""
        c = self.config.text
        attended = c.num_heads * c.head_dim
        projections = c.hidden_size * (2 * attended + 2 * c.num_kv_heads * c.head_dim)
        layer = projections + 3 * c.hidden_size * c.intermediate_size
        return Flops(
            products=2.0 * count * c.num_layers * layer,
            attention=4.0 * count * c.num_layers * attended * seen,
        )
