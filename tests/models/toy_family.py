"""A whole family of models in one file, as `lrt_jax/models/toy/__init__.py` would be.

It has what Qwen2.5-VL has not: its prefix state is no keys and values but that of a recurrent
layer, and what it makes of an image goes into two layers.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax.sharding import NamedSharding
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from lrt_jax.models.api import Family
from lrt_jax.models.attention import XLA, Attention
from lrt_jax.models.inputs import Grid, Images, PatchOrder, PixelBounds, Prompt
from lrt_jax.models.layers import constrain_batch
from lrt_jax.models.weights import Weight

SIDE = 56  # pixels, whatever the image


@dataclasses.dataclass(frozen=True)
class ToyVision:
    """How images are cut: all into four tokens."""

    patch_size: int = 14
    merge_size: int = 2
    merge_unit: int = 4
    patch_multiple: int = 4
    in_channels: int = 3
    patch_dim: int = 588
    image_mean: ClassVar = (0.5, 0.5, 0.5)
    image_std: ClassVar = (0.5, 0.5, 0.5)
    sizes: ClassVar = {"patch_size": 14}

    def read_pixel_bounds(self, folder: Path) -> PixelBounds:
        return PixelBounds(SIDE**2, SIDE**2, self.patch_size)

    def resized(self, height, width, min_pixels, max_pixels) -> tuple[int, int]:
        return SIDE, SIDE

    def patch_order(self, grid: Grid) -> PatchOrder:
        """As they come."""
        patches = np.arange(grid[0] * grid[1], dtype=np.int32)
        coords = np.stack([patches // grid[1], patches % grid[1]], axis=1)
        return PatchOrder(patches, coords, np.zeros_like(patches), patches[: len(patches) // 4])


@dataclasses.dataclass(frozen=True)
class ToyConfig:
    """Sizes and special tokens."""

    vocab_size: int
    hidden_size: int
    image_token_id: int
    unspelled_token_ids: tuple[int, ...] = ()
    vision: ToyVision = ToyVision()
    model_type: ClassVar = "toy"
    image_token: ClassVar = "<|image_pad|>"

    @property
    def special_tokens(self) -> Mapping[str, int | None]:
        return {self.image_token: self.image_token_id}

    @property
    def banned_token_ids(self) -> tuple[int, ...]:
        return (self.image_token_id, *self.unspelled_token_ids)

    def positions(self, tokens: Int[np.ndarray, " s"], grids: Sequence[Grid]):
        return np.tile(np.arange(len(tokens), dtype=np.int32), (3, 1))


def read_config(folder: Path) -> ToyConfig:
    fields = json.loads((folder / "config.json").read_bytes())
    return ToyConfig(
        **{name: fields[name] for name in ("vocab_size", "hidden_size")},
        image_token_id=fields["image_token_id"],
    )


@struct.dataclass
class State:
    """Of both layers, after some tokens; the suffix's and, for a group, the prefix's."""

    layers: Float[Array, "2 *b d"]

    def write(self, new: "State", step: Int[Array, ""]) -> "State":
        return new

    def grown(self, length: int) -> "State":
        return self


@struct.dataclass
class Prefix:
    """A prompt but for its last token."""

    state: State
    last_token: Int[Array, " B"]

    def empty_suffix(self, group_size: int, length: int) -> State:
        layers = self.state.layers[:, :, None]
        shape = (*layers.shape[:2], group_size, layers.shape[-1])
        return State(jnp.broadcast_to(layers, shape))


class Toy(nn.Module):
    """Two recurrent layers."""

    config: ToyConfig
    dtype: DTypeLike = jnp.float32
    remat: str = "full"
    sharding: NamedSharding | None = None
    attention: Attention = XLA()

    def setup(self):
        d = self.config.hidden_size
        init = nn.initializers.normal(0.1)
        self.embedding = self.param("embedding", init, (self.config.vocab_size, d))
        self.vision = nn.Dense(2 * d, use_bias=False)
        self.decay = self.param("decay", nn.initializers.zeros, (d,))

    def __call__(self, prompt: Prompt, images: Images):
        _, hidden = self._prefix(prompt, self.encode_images(images), prompt.length)
        return self.logits(hidden)

    def encode_images(self, images: Images):
        """What goes into the first layer at an image's tokens, and into the second."""
        b, *_, d = images.patches.shape
        patches = images.patches.reshape(b, -1, 4, d).astype(jnp.float32) / 255
        first, second = jnp.split(self.vision(patches.mean(axis=2)), 2, axis=-1)
        return {"first": first, "second": second}

    def prefill(self, prompt: Prompt, features) -> Prefix:
        state, _ = self._prefix(prompt, features, prompt.length - 1)
        at = (prompt.length - 1)[:, None]
        return Prefix(state, jnp.take_along_axis(prompt.tokens, at, axis=1)[:, 0])

    def decode(self, prefix: Prefix, suffix: State, tokens, step):
        x = self._embed(tokens)
        state, out = self._step(suffix, (x, jnp.zeros_like(x), jnp.ones(x.shape[:-1], bool)))
        return out, state

    def score_groups(self, prompts, features, continuations):
        groups = zip(prompts, continuations, strict=True)
        return tuple(self._score_group(prompt, features, tokens) for prompt, tokens in groups)

    def _score_group(self, prompt: Prompt, features, continuations):
        prefix = self.prefill(prompt, features)
        group = continuations.shape[1]
        first = jnp.broadcast_to(prefix.last_token[:, None, None], (*continuations.shape[:2], 1))
        x = self._embed(jnp.concatenate([first, continuations[..., :-1]], axis=-1))
        x = jnp.moveaxis(x, 2, 0)  # time first
        ones = jnp.ones(x.shape[:-1], bool)
        _, out = jax.lax.scan(
            self._step, prefix.empty_suffix(group, 0), (x, jnp.zeros_like(x), ones)
        )
        return jnp.moveaxis(out, 0, 2)

    def logits(self, hidden):
        return self.logits_of(hidden, slice(None))

    def with_head(self, function, *rows):
        return function(self.logits, *rows)

    def logits_of(self, hidden, ids):
        return constrain_batch(hidden @ self.embedding[ids].T, self.sharding).astype(jnp.float32)

    def _embed(self, tokens):
        return jnp.take(self.embedding, tokens, axis=0).astype(self.dtype)

    def _prefix(self, prompt: Prompt, features, length):
        """State after `length` tokens of each prompt, and the hidden states of all."""
        index = jnp.maximum(prompt.image_index, 0)[..., None]
        shown = prompt.image_index[..., None] >= 0
        first, second = (
            jnp.where(shown, jnp.take_along_axis(features[name], index, axis=1), other)
            for name, other in (("first", self._embed(prompt.tokens)), ("second", 0.0))
        )
        counts = jnp.arange(prompt.tokens.shape[1]) < length[:, None]
        inputs = jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), (first, second, counts))
        empty = State(jnp.zeros((2, len(first), first.shape[-1]), self.dtype))
        state, hidden = jax.lax.scan(self._step, empty, inputs)
        return state, jnp.swapaxes(hidden, 0, 1)

    def _step(self, state: State, inputs):
        """One token: the addend goes into the second layer."""
        x, addend, counts = inputs
        kept = nn.sigmoid(self.decay)
        first = kept * state.layers[0] + x
        second = kept * state.layers[1] + nn.tanh(first) + addend
        new = jnp.where(counts[..., None], jnp.stack([first, second]), state.layers)
        return State(new), nn.tanh(second)


def weight_table(config: ToyConfig) -> dict[str, Weight]:
    weights = (
        Weight("embedding", "embedding.weight", ("vocab", "embed"), "table"),
        Weight("vision/kernel", "vision.weight", ("pixels", "embed"), "matrix", inputs=1),
        Weight("decay", "decay", ("embed",)),
    )
    return {weight.path: weight for weight in weights}


def apply_hf(model, params, inputs):
    raise NotImplementedError("transformers has no such model")


FAMILY = Family(
    read_config=read_config,
    model=Toy,
    weight_table=weight_table,
    rules={
        "vocab": {"train": "tensor", "sample": "tensor"},
        "embed": {"train": "fsdp", "sample": None},
        "pixels": {"train": None, "sample": None},
    },
    apply_hf=apply_hf,
)
