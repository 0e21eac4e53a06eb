"""The whole model: images and tokens in, hidden states and logits out.

All methods are pure: call them through `model.apply({"params": params}, ..., method="...")`, or
through `models.BoundModel`, which is the same in fewer words.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct
from jax.sharding import NamedSharding
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int, UInt8

from lrt_jax.models.attention import XLA, Attention, GroupSizes, KeyValues
from lrt_jax.models.inputs import Images, Prompt
from lrt_jax.models.layers import (
    Rotation,
    constrain_batch,
    constrain_features,
    embed,
    head_rows,
)
from lrt_jax.models.per_device import runs_by_rows, with_whole
from lrt_jax.models.qwen2_5_vl.config import ModelConfig, VisionConfig
from lrt_jax.models.qwen2_5_vl.decoder import (
    DecodePositions,
    Decoder,
    GroupPositions,
    mrope_angles,
)
from lrt_jax.models.qwen2_5_vl.sharding import specs
from lrt_jax.models.qwen2_5_vl.vision import VisionTower


@struct.dataclass
class PrefixCache:
    """A prompt but for its last token, ready for its continuations to attend to."""

    cache: KeyValues  # of all layers: [L, B, s, n, k]
    mask: Bool[Array, "B 1 1 s"]  # tokens that are not padding
    last_token: Int[Array, " B"]  # the prompt's last token: the first input of every suffix
    last_position: Int[Array, " B"]  # its M-RoPE position, the same on all three axes

    def empty_suffix(self, group_size: int, length: int) -> KeyValues:
        """Room for `length` tokens of each of `group_size` members: [L, B, G, t, n, k]."""
        layers, batch, _, heads, width = self.cache.keys.shape
        shape = (layers, batch, group_size, length, heads, width)
        empty = jnp.zeros(shape, self.cache.keys.dtype)
        return KeyValues(empty, empty)


class Qwen2_5_VL(nn.Module):
    """Qwen2.5-VL for still images; see `VisionLanguageModel`, and `REMAT_POLICIES` for `remat`.

    Parameters keep their own dtype; norms, rotations, softmax and logits run in float32.
    """

    config: ModelConfig
    dtype: DTypeLike = jnp.float32
    remat: str = "full"
    sharding: NamedSharding | None = None
    attention: Attention = XLA()

    def setup(self):
        text = self.config.text
        shape = (text.vocab_size, text.hidden_size)
        numerics = self.dtype, self.remat, self.sharding, self.attention
        self.vision = VisionTower(self.config.vision, *numerics)
        self.decoder = Decoder(text, *numerics)
        self.embedding = self.param("embedding", nn.initializers.normal(0.02), shape)
        if not text.tie_word_embeddings:
            self.head = self.param("head", nn.initializers.normal(0.02), shape)

    def __call__(self, prompt: Prompt, images: Images) -> Float[Array, "B s v"]:
        """Logits of whole sequences."""
        return self.logits(self.forward(prompt, self.encode_images(images)))

    def encode_images(self, images: Images) -> Float[Array, "B m d"]:
        """Merged tokens of both images of every pair, in window order; `m` is `2 p / 4`."""
        batch, count, *_ = images.patches.shape
        patches, coords, window = (
            x.reshape(batch * count, *x.shape[2:])
            for x in (images.patches, images.coords, images.window)
        )
        tokens = self.encode_patches(normalise(patches, self.config.vision), coords, window)
        return tokens.reshape(batch, -1, tokens.shape[-1])

    def encode_patches(
        self, patches: Float[Array, "N p v"], coords: Int[Array, "N p 2"], window: Int[Array, "N p"]
    ) -> Float[Array, "N p/4 d"]:
        """Merged tokens of `N` images whose patches are normalised already."""
        return self.vision(patches, coords, window)

    def forward(self, prompt: Prompt, features: Float[Array, "B m d"]) -> Float[Array, "B s d"]:
        """Hidden state of every token of whole sequences, as transformers' model gives."""
        rotation = self._rotation(prompt.positions)
        hidden, _ = self.decoder.prefill(self._embed(prompt, features), rotation)
        return hidden

    def prefill(self, prompt: Prompt, features: Float[Array, "B m d"]) -> PrefixCache:
        """The prompt but for its last token, once for all members of its group."""
        rotation = self._rotation(prompt.positions)
        _, cache = self.decoder.prefill(self._embed(prompt, features), rotation)
        last_token, last_position = _last(prompt)
        mask = jnp.arange(prompt.tokens.shape[1]) < prompt.length[:, None] - 1
        mask = constrain_batch(mask[:, None, None], self.sharding)
        return PrefixCache(cache, mask, last_token, last_position)

    def decode(
        self,
        prefix: PrefixCache,
        suffix_cache: KeyValues,
        tokens: Int[Array, "B G"],
        step: Int[Array, ""],
    ) -> tuple[Float[Array, "B G d"], KeyValues]:
        """Hidden state after one more token of each member.

        Args:
          prefix: of `B` prompts.
          suffix_cache: [L, B, G, t, n, k]; the first `step` of the `t` positions are filled.
          tokens: input tokens; at step 0 the prompts' last.
          step: how many tokens each member has had before.

        Returns:
          The hidden states, which predict the next token, and the new tokens' keys and values
          [L, B, G, 1, n, k], for the caller to write at `step`.
        """
        rotation = self._suffix_rotation(prefix.last_position + step, 1)
        rotation = jax.tree.map(lambda x: x[:, None], rotation)
        had = jnp.arange(suffix_cache.keys.shape[3]) < step
        positions = DecodePositions(rotation, prefix.mask, had[None])
        x = self._embed_text(tokens[..., None])
        x, new = self.decoder.decode(x, (prefix.cache, suffix_cache), positions)
        return x[:, :, 0], new

    def score_groups(
        self,
        prompts: tuple[Prompt, ...],
        features: Float[Array, "B m d"],
        continuations: tuple[Int[Array, "B _ _"], ...],
    ) -> tuple[Float[Array, "B _ _ d"], ...]:
        """Hidden states that predict each token of the continuations, for each of several prompts
        of the same images.

        All go through each layer together, whose weights are gathered once.
        """
        groups = zip(prompts, continuations, strict=True)
        rows = [self._group_row(prompt, features, tokens) for prompt, tokens in groups]
        x, positions = zip(*rows, strict=True)
        return self.decoder.score_groups(x, positions)

    def _group_row(
        self, prompt: Prompt, features: Float[Array, "B m d"], continuations: Int[Array, "B G t"]
    ) -> tuple[Float[Array, "B r d"], GroupPositions]:
        """A prompt and its continuations in one row, and where they stand.

        The prompt's last token is the first input of every suffix, so that the suffixes yield all
        logits that are needed and the prefix yields none.
        """
        last_token, last_position = _last(prompt)
        first = jnp.broadcast_to(last_token[:, None, None], (*continuations.shape[:2], 1))
        inputs = jnp.concatenate([first, continuations[..., :-1]], axis=-1)
        sizes = GroupSizes(prompt.tokens.shape[1], *continuations.shape[1:])

        def row(prefix, suffix):
            return sizes.row(prefix, jnp.tile(suffix[:, None], (1, sizes.group, 1, 1)))

        suffix = self._suffix_rotation(last_position, sizes.suffix)
        rotation = jax.tree.map(row, self._rotation(prompt.positions), suffix)
        positions = GroupPositions(rotation, prompt.length - 1, sizes)
        return sizes.row(self._embed(prompt, features), self._embed_text(inputs)), positions

    def logits(self, hidden: Float[Array, "*b d"]) -> Float[Array, "*b v"]:
        """Logits over the vocabulary, in float32, divided as the head is."""
        rows = head_rows(self.sharding)
        return constrain_features(_logits(self._head()[1], constrain_batch(hidden, rows)), rows)

    def logits_of(
        self, hidden: Float[Array, "*b d"], ids: Int[Array, " r"]
    ) -> Float[Array, "*b r"]:
        """Logits of some ids of the vocabulary only, in float32."""
        return constrain_batch(_logits(self._head()[1][ids], hidden), self.sharding)

    def with_head(self, function: Callable, *rows: Any) -> Any:
        """`function(logits, *rows)`; see `BoundModel.with_head`."""
        name, table = self._head()
        if not runs_by_rows(self.sharding):
            return function(self.logits, *rows)

        def local(head, *rows):
            # In the parameters' own dtype its gradient is added up from one call to the next.
            whole = head[name].astype(table.dtype)
            return function(partial(_logits, whole), *rows)

        run_local = with_whole(local, self.sharding, specs(""), self.dtype)
        return run_local({name: table}, *rows)

    def _head(self) -> tuple[str, Float[Array, "v d"]]:
        name = "embedding" if self.config.text.tie_word_embeddings else "head"
        return name, getattr(self, name)

    def _embed_text(self, tokens):
        found = embed(self.embedding, tokens, self.sharding)
        return constrain_batch(found.astype(self.dtype), self.sharding)

    def _embed(self, prompt, features):
        text = self._embed_text(prompt.tokens)
        index = jnp.maximum(prompt.image_index, 0)[..., None]
        seen = jnp.take_along_axis(features.astype(self.dtype), index, axis=1)
        x = jnp.where(prompt.image_index[..., None] >= 0, seen, text)
        return constrain_batch(x, self.sharding)

    def _rotation(self, positions: Int[Array, "B 3 s"]) -> Rotation:
        rotation = Rotation.by(mrope_angles(positions, self.config.text))
        return constrain_batch(rotation, self.sharding)

    def _suffix_rotation(self, start: Int[Array, " B"], tokens: int) -> Rotation:
        """[B, t, f], the same for all members of a group."""
        steps = jnp.arange(tokens)
        positions = jnp.broadcast_to((start[:, None] + steps)[:, None], (len(start), 3, len(steps)))
        return self._rotation(positions)


def _logits(head: Float[Array, "r d"], hidden: Float[Array, "*b d"]) -> Float[Array, "*b r"]:
    head = head.astype(hidden.dtype)
    return jnp.einsum("...d,rd->...r", hidden, head, preferred_element_type=jnp.float32)


def normalise(patches: UInt8[Array, "*n d"], vision: VisionConfig) -> Float[Array, "*n d"]:
    """Pixel values 0..255 to the range the tower was trained on, in float32, on the device."""
    values = patches.astype(jnp.float32).reshape(*patches.shape[:-1], vision.in_channels, -1)
    mean, std = (jnp.array(x, jnp.float32)[:, None] for x in (vision.image_mean, vision.image_std))
    return ((values / 255.0 - mean) / std).reshape(patches.shape)


def _last(prompt: Prompt) -> tuple[Int[Array, " B"], Int[Array, " B"]]:
    """The prompt's last token and its position; it is text, so that all axes agree."""
    at = (prompt.length - 1)[:, None]
    token = jnp.take_along_axis(prompt.tokens, at, axis=1)[:, 0]
    return token, jnp.take_along_axis(prompt.positions[:, 0], at, axis=1)[:, 0]
