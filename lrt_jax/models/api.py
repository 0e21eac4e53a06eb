"""What the rest of the package knows of a model: a protocol, and a model with its parameters.

`B` pairs, `G` completions of each, `s` tokens of a prompt, `t` of a completion, `m` tokens of a
pair's images, `d` the hidden size, `v` the vocabulary.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Protocol

import jax
from jaxtyping import Array, Float, Int

from lrt_jax.models.inputs import Images, Prompt

Features = Float[Array, "B m d"]


class SuffixState(Protocol):
    """What a model keeps of the tokens that it has decoded, for each completion; a pytree."""

    def write(self, new: Any, step: Int[Array, ""]) -> "SuffixState":
        """With what `decode` gave of one more token of each completion, the `step`-th."""


class PrefixState(Protocol):
    """What a model keeps of a prompt, once for all completions of it; a pytree.

    Attributes:
      last_token: the prompt's last token, which is the first input of every completion.
    """

    last_token: Int[Array, " B"]

    def empty_suffix(self, group_size: int, length: int) -> SuffixState:
        """Room for `length` tokens of each of `group_size` completions."""


class VisionLanguageModel(Protocol):
    """A linen module, static under `jit`; its methods are called through `bind`.

    Attributes:
      config: sizes and special tokens.
      dtype: of activations.
    """

    config: Any
    dtype: Any

    def apply(self, variables: Mapping, *args: Any, method: str) -> Any:
        """Calls a method with parameters."""

    def copy(self, **changes: Any) -> "VisionLanguageModel":
        """The same with other attributes."""


@dataclasses.dataclass(frozen=True)
class BoundModel:
    """A model and its parameters. To be made where it is used, inside of a jitted function: of
    parameters that are closed over the compiler makes constants.
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
        return self._call("score_group", prompt, features, continuations)

    def logits(self, hidden: Float[Array, "*b d"]) -> Float[Array, "*b v"]:
        """Logits over the vocabulary, in float32."""
        return self._call("logits", hidden)

    def logits_of(
        self, hidden: Float[Array, "*b d"], ids: Int[Array, " r"]
    ) -> Float[Array, "*b r"]:
        """Logits of some ids only, in float32."""
        return self._call("logits_of", hidden, ids)

    def _call(self, method: str, *args: Any) -> Any:
        with jax.named_scope(method):
            return self.model.apply({"params": self.params}, *args, method=method)


def bind(model: VisionLanguageModel, params: Mapping) -> BoundModel:
    """A model with its parameters."""
    return BoundModel(model, params)
