"""What the rest of the package knows of a model: protocols, and a model with its parameters.

A family of models is a folder in here, called as the `model_type` of its checkpoints; see `Family`.

`B` pairs, `G` completions of each, `s` tokens of a prompt, `t` of a completion, `d` the hidden
size, `v` the vocabulary.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np
from jaxtyping import Array, Float, Int

from lrt_jax.models.attention import Attention
from lrt_jax.models.inputs import Grid, Images, PatchOrder, PixelBounds, Prompt
from lrt_jax.models.weights import Weight
from lrt_jax.parallel.rules import Rules

# What a model makes of the images of every pair: a pytree of arrays, whose leading axis is `B`.
Features = Any


@runtime_checkable
class ImageLayout(Protocol):
    """How a family of models cuts images into patches.

    Attributes:
      patch_size: side of a patch, in pixels.
      merge_size: side of the square of patches that become one token of the decoder.
      patch_multiple: the patches of an image are padded to a multiple of it.
      in_channels: 3.
      merge_unit: patches that become one token of the decoder.
      patch_dim: values of a patch of one frame.
      image_mean: of the RGB values that the tower was trained on, between 0 and 1.
      image_std: likewise.
      sizes: whatever the patches and their order depend on, by its name in config.json; models
        that agree in it can be shown the same patches.
    """

    patch_size: int
    merge_size: int
    patch_multiple: int
    in_channels: int
    merge_unit: int
    patch_dim: int
    image_mean: tuple[float, float, float]
    image_std: tuple[float, float, float]
    sizes: Mapping[str, int]

    def read_pixel_bounds(self, folder: Path) -> PixelBounds:
        """Reads a checkpoint's image processor, and refuses what is not implemented."""

    def resized(
        self, height: float, width: float, min_pixels: int, max_pixels: int
    ) -> tuple[int, int]:
        """Size in pixels to which the family's image processor brings an image."""

    def patch_order(self, grid: Grid) -> PatchOrder:
        """The order in which the patches of an image run through the tower."""


@runtime_checkable
class ModelConfig(Protocol):
    """Sizes and special tokens of a checkpoint; a frozen dataclass.

    Attributes:
      model_type: name of the family.
      vision: how images are cut.
      vocab_size: rows of the embedding.
      image_token: stands in a text for an image, and is repeated for each of its merged tokens.
      special_tokens: what the tokenizer must know as one token each, with the id that it must have
        where config.json names one.
      image_token_id: id of `image_token`.
      unspelled_token_ids: ids that no token of the tokenizer has.
      banned_token_ids: ids that must never be sampled.
    """

    model_type: str
    vision: ImageLayout
    vocab_size: int
    image_token: str
    special_tokens: Mapping[str, int | None]
    image_token_id: int
    unspelled_token_ids: tuple[int, ...]
    banned_token_ids: tuple[int, ...]

    def positions(
        self, tokens: Int[np.ndarray, " s"], grids: Sequence[Grid]
    ) -> Int[np.ndarray, "3 s"]:
        """Position of every token of an unpadded prompt."""


@runtime_checkable
class SuffixState(Protocol):
    """What a model keeps of the tokens that it has decoded, for each completion; a pytree."""

    def write(self, new: Any, step: Int[Array, ""]) -> "SuffixState":
        """With what `decode` gave of one more token of each completion, the `step`-th."""

    def grown(self, length: int) -> "SuffixState":
        """With room for `length` tokens of each completion, of which there was room for fewer."""


@runtime_checkable
class PrefixState(Protocol):
    """What a model keeps of a prompt, once for all completions of it; a pytree.

    Attributes:
      last_token: the prompt's last token, which is the first input of every completion.
    """

    last_token: Int[Array, " B"]

    def empty_suffix(self, group_size: int, length: int) -> SuffixState:
        """Room for `length` tokens of each of `group_size` completions."""


@runtime_checkable
class VisionLanguageModel(Protocol):
    """A linen module, static under `jit`; its methods, those of `BoundModel`, are called
    through that.

    The parameters of its vision tower lie under `vision/`.

    Attributes:
      config: sizes and special tokens.
      dtype: of activations.
      sharding: of the leading axis of all activations.
      attention: kernels of its attention; a model without attention leaves them alone.
    """

    config: ModelConfig
    dtype: Any
    sharding: jax.sharding.NamedSharding | None
    attention: Attention

    def __call__(self, prompt: Prompt, images: Images) -> Float[Array, "B s v"]:
        """Logits of whole sequences; all parameters have a part in them."""

    def apply(self, variables: Mapping, *args: Any, method: str) -> Any:
        """Calls a method with parameters."""

    def copy(self, **changes: Any) -> "VisionLanguageModel":
        """The same with other attributes."""


@dataclasses.dataclass(frozen=True)
class Flops:
    """Floating-point operations that a computation is worth, counted by its formulas.

    A multiplication and its addition are two. Work that is done again to save memory, and what a
    mask leaves out, do not count.
    """

    products: float = 0.0  # of activations with weights
    attention: float = 0.0  # of queries with keys, and of weights with values
    masked: float = 0.0  # of attention that a kernel computes although a mask leaves it out

    @property
    def total(self) -> float:
        return self.products + self.attention

    def __add__(self, other: "Flops") -> "Flops":
        pairs = zip(dataclasses.astuple(self), dataclasses.astuple(other), strict=True)
        return Flops(*(one + two for one, two in pairs))

    def __mul__(self, factor: float) -> "Flops":
        return Flops(*(value * factor for value in dataclasses.astuple(self)))


@runtime_checkable
class FlopCounter(Protocol):
    """Counts what the methods of `BoundModel` are worth for a model's sizes, on all devices."""

    def encode_images(self, images: int, patches: int) -> Flops:
        """Of so many images of so many patches."""

    def prefill(self, batch: int, prompt: int) -> Flops:
        """Of prompts of so many tokens."""

    def decode(self, batch: int, group: int, prompt: int, tokens: int) -> Flops:
        """Of all tokens of `batch` x `group` completions, logits included."""

    def score_group(self, batch: int, group: int, prompt: int, tokens: int) -> Flops:
        """Of prompts and completions, without logits."""

    def logits(self, tokens: int) -> Flops:
        """Of the logits of so many tokens."""

    def cache_values(self, batch: int, group: int, prompt: int, tokens: int) -> float:
        """Numbers of the caches that decoding reads for a token of every completion, on average."""


@dataclasses.dataclass(frozen=True)
class PublishedModel:
    """What is known of a published checkpoint without its files.

    Attributes:
      config: sizes and special tokens.
      answer_ids: ids of "1" and "2".
      stop_ids: ids that end a completion.
      judge_tail: tokens that stand behind the trace in a judge's prompt of the project's own words.
    """

    config: ModelConfig
    answer_ids: tuple[int, int]
    stop_ids: tuple[int, ...]
    judge_tail: int


@dataclasses.dataclass(frozen=True)
class Family:
    """A family of models: `FAMILY` of the folder in here that has its name.

    Attributes:
      read_config: reads a checkpoint's config.json, and refuses what is not implemented.
      model: makes a model of a config; further arguments are `dtype`, `remat`, `sharding` and
        `attention`.
      weight_table: every parameter of a checkpoint, by our path.
      rules: mesh axes of the parameters' logical axes.
      apply_hf: logits for what transformers' processor returns, see `models.apply_hf`.
      quantised: regular expression of the paths of weights that its layers take as `qwix.QArray`
        too (see `models.quantised`); None where no layer does, and the model cannot be sampled with
        weights in int8.
      flops: counts for a config what its computations are worth; None where nobody has written it.
      published: checkpoints whose sizes are known without their files, by Hub id.
    """

    read_config: Callable[[Path], ModelConfig]
    model: Callable[..., VisionLanguageModel]
    weight_table: Callable[[ModelConfig], dict[str, Weight]]
    rules: Rules
    apply_hf: Callable[..., Float[Array, "batch length vocab"]]
    quantised: str | None = None
    flops: Callable[[ModelConfig], FlopCounter] | None = None
    published: Mapping[str, PublishedModel] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class BoundModel:
    """A model and its parameters. Bind inside of the jitted function: parameters that a jitted
    function closes over become constants of the compiled program.
    """

    model: VisionLanguageModel
    params: Mapping

    def encode_images(self, images: Images) -> Features:
        """Merged tokens of the images of every pair."""
        return self._call("encode_images", images)

    def prefill(self, prompt: Prompt, features: Features) -> PrefixState:
        """The prompts, once for all members of their groups."""
        return self._call("prefill", prompt, features)

    def decode(
        self,
        prefix: PrefixState,
        suffix: SuffixState,
        tokens: Int[Array, "B G"],
        step: Int[Array, ""],
    ) -> tuple[Float[Array, "B G d"], Any]:
        """Hidden state after one more token of each completion, and what `suffix` is to keep."""
        return self._call("decode", prefix, suffix, tokens, step)

    def score_group(
        self, prompt: Prompt, features: Features, continuations: Int[Array, "B G t"]
    ) -> Float[Array, "B G t d"]:
        """Hidden states that predict each token of the continuations of each prompt."""
        return self.score_groups((prompt,), features, (continuations,))[0]

    def score_groups(
        self,
        prompts: Sequence[Prompt],
        features: Features,
        continuations: Sequence[Int[Array, "B _ _"]],
    ) -> tuple[Float[Array, "B _ _ d"], ...]:
        """As `score_group`, of several prompts of the same images, in one pass over the weights.

        Args:
          prompts: of the same `B` pairs.
          features: of their images.
          continuations: [B, G, t] of each prompt; `G` and `t` may differ from one to the other.

        Returns:
          Hidden states [B, G, t, d] of each.
        """
        return self._call("score_groups", tuple(prompts), features, tuple(continuations))

    def logits(self, hidden: Float[Array, "*b d"]) -> Float[Array, "*b v"]:
        """Logits over the vocabulary, in float32."""
        return self._call("logits", hidden)

    def logits_of(
        self, hidden: Float[Array, "*b d"], ids: Int[Array, " r"]
    ) -> Float[Array, "*b r"]:
        """Logits of some ids only, in float32."""
        return self._call("logits_of", hidden, ids)

    def with_head(self, function: Callable, *rows: Any) -> Any:
        """What `function(logits, *rows)` gives, where `logits` maps hidden states to logits.

        On several devices each calls it for its own rows, and has gathered the head once, whatever
        the number of its calls of `logits`.

        Args:
          function: takes the function from hidden states [*b, d] to logits [*b, v] in float32, and
            the rows.
          *rows: arrays whose leading axis is the batch, as that of the results.
        """
        return self._call("with_head", function, *rows)

    def _call(self, method: str, *args: Any) -> Any:
        with jax.named_scope(method):
            return self.model.apply({"params": self.params}, *args, method=method)
