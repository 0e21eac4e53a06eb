"""Sizes and token ids of a Qwen2.5-VL checkpoint, read from its `config.json`."""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Int
from transformers import Qwen2_5_VLConfig

from lrt_jax.models.inputs import Grid, PatchOrder, PixelBounds
from lrt_jax.models.qwen2_5_vl.positions import mrope_positions, window_order
from lrt_jax.models.qwen2_5_vl.processor import (
    IMAGE_MEAN,
    IMAGE_STD,
    read_pixel_bounds,
    smart_resize,
)
from lrt_jax.storage.disk import read_json, read_plainly

MODEL_TYPE = "qwen2_5_vl"
REMEDY = "take the config.json that came with the checkpoint"
# The largest that a config.json may declare, some four times as much as any published model has:
# lists, shapes and whole programs are made of these before a tensor is looked at.
LARGEST = {
    "vocab_size": 2**22,
    "num_hidden_layers": 2**10,
    "depth": 2**10,
    "hidden_size": 2**16,
    "out_hidden_size": 2**16,
    "intermediate_size": 2**18,
    "num_attention_heads": 2**10,
    "num_key_value_heads": 2**10,
    "num_heads": 2**10,
    "patch_size": 2**8,
    "temporal_patch_size": 2**4,
    "spatial_merge_size": 2**4,
    "window_size": 2**12,
    "in_channels": 2**4,
    "in_chans": 2**4,
    "image_token_id": 2**22,
    "video_token_id": 2**22,
}
NUMBERS = ("rope_theta", "rms_norm_eps")
LISTS = ("fullatt_block_indexes", "mrope_section")  # of whole numbers


@dataclasses.dataclass(frozen=True)
class VisionConfig:
    """The vision tower. Sizes are in pixels, patches or features as their names say."""

    depth: int
    hidden_size: int
    intermediate_size: int
    num_heads: int
    out_hidden_size: int  # width of the decoder that reads the merged tokens
    full_attention_layers: tuple[int, ...]  # the others attend inside windows
    patch_size: int = 14  # pixels
    temporal_patch_size: int = 2  # frames per patch; a still image is shown twice
    merge_size: int = 2  # merge_size**2 patches become one token of the decoder
    window_size: int = 112  # pixels
    in_channels: int = 3
    rope_theta: float = 10_000.0
    image_mean: ClassVar = IMAGE_MEAN
    image_std: ClassVar = IMAGE_STD

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_heads

    @property
    def sizes(self) -> dict[str, int]:
        """What the patches of an image and their order depend on."""
        names = ("patch_size", "merge_size", "window_size", "in_channels")
        return {name: getattr(self, name) for name in names}

    @property
    def merge_unit(self) -> int:
        """Patches per merged token."""
        return self.merge_size**2

    @property
    def window_tokens(self) -> int:
        """Side of a full attention window, in merged tokens."""
        return self.window_size // self.merge_size // self.patch_size

    @property
    def window_patches(self) -> int:
        """Patches of a full attention window."""
        return self.window_tokens**2 * self.merge_unit

    patch_multiple = window_patches  # images are padded to whole windows

    @property
    def patch_dim(self) -> int:
        """Values of one patch of one frame."""
        return self.in_channels * self.patch_size**2

    def read_pixel_bounds(self, folder: Path) -> PixelBounds:
        """See `processor.read_pixel_bounds`."""
        return read_pixel_bounds(folder)

    def resized(
        self, height: float, width: float, min_pixels: int, max_pixels: int
    ) -> tuple[int, int]:
        """See `processor.smart_resize`; sides are multiples of a merged token's."""
        factor = self.patch_size * self.merge_size
        return smart_resize(height, width, factor, min_pixels, max_pixels)

    def patch_order(self, grid: Grid) -> PatchOrder:
        """See `positions.window_order`."""
        return window_order(grid, self)


@dataclasses.dataclass(frozen=True)
class TextConfig:
    """The causal decoder."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    mrope_section: tuple[int, int, int]  # rotary frequencies of time, height, width
    rope_theta: float
    rms_norm_eps: float
    tie_word_embeddings: bool

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_heads


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """A whole Qwen2.5-VL: tower, decoder, and the token ids that join them."""

    vision: VisionConfig
    text: TextConfig
    image_token_id: int
    video_token_id: int
    # Rows that fill up the tables and that no token of the tokenizer has; see `with_tokenizer`.
    unspelled_token_ids: tuple[int, ...] = ()
    model_type: ClassVar = MODEL_TYPE
    image_token: ClassVar = "<|image_pad|>"

    @property
    def vocab_size(self) -> int:
        return self.text.vocab_size

    @property
    def special_tokens(self) -> dict[str, int | None]:
        """What the tokenizer must know as one token each, with the id where config.json has it."""
        turns = ("<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>")
        ids = {self.image_token: self.image_token_id, "<|video_pad|>": self.video_token_id}
        return dict.fromkeys(turns) | ids

    @property
    def banned_token_ids(self) -> tuple[int, ...]:
        """Ids that must never be sampled.

        That of an image without the image breaks the next forward, and what has no spelling is
        lost from the text.
        """
        return (self.image_token_id, self.video_token_id, *self.unspelled_token_ids)

    def positions(
        self, tokens: Int[np.ndarray, " s"], grids: Sequence[Grid]
    ) -> Int[np.ndarray, "3 s"]:
        """See `positions.mrope_positions`."""
        return mrope_positions(tokens, grids, self.image_token_id, self.vision)


def read_config(folder: Path) -> ModelConfig:
    """Reads `config.json` of a Hugging Face folder, in the hub's flat or in the nested v5 layout.

    Raises:
      ValueError: impossible sizes, sliding-window attention, or a rotary embedding other than
        M-RoPE, none of which this port implements.
    """
    path = folder / "config.json"
    with read_plainly(path, REMEDY):
        # transformers believes what it reads, and makes lists of a hundred million layers.
        _refuse(path, _impossible_values(read_json(path)))
        hf = Qwen2_5_VLConfig.from_pretrained(path.parent)
        _check_supported(hf, path)
        config = ModelConfig(
            vision=_vision_config(hf.vision_config),
            text=_text_config(hf.text_config, tie=bool(hf.tie_word_embeddings)),
            image_token_id=hf.image_token_id,
            video_token_id=hf.video_token_id,
        )
        _refuse(path, _impossible_sizes(config))
    return config


def _refuse(path: Path, problems: Iterator[str]) -> None:
    if message := "; ".join(problems):
        raise ValueError(f"{path}: {message}; {REMEDY}")


def _impossible_values(values: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """What is wrong with single fields of a config.json; None is left to transformers."""
    if not isinstance(values, dict):
        yield "not the fields of a model"
        return
    for name, value in values.items():
        field = f"{prefix}{name}"
        if isinstance(value, dict):
            yield from _impossible_values(value, f"{field}.")
        elif value is None:
            continue
        elif name in NUMBERS and type(value) not in (int, float):
            yield f"{field} is {value!r}, not a number"
        elif name in LISTS and not _are_whole(value):
            yield f"{field} is {value!r:.50}, not a list of whole numbers"
        elif name in LARGEST and type(value) is not int:
            yield f"{field} is {value!r:.50}, not a whole number"
        elif name in LARGEST and value > LARGEST[name]:
            yield f"{field} is {value}, above {LARGEST[name]:,}"


def _are_whole(value: Any) -> bool:
    return isinstance(value, list) and all(type(x) is int for x in value)


def _impossible_sizes(config: ModelConfig) -> Iterator[str]:
    vision, text = config.vision, config.text
    for part in (vision, text):
        for field in dataclasses.fields(part):
            value = getattr(part, field.name)
            if type(value) in (int, float) and not 0 < value < math.inf:
                yield f"{field.name} is {value}"
        if part.hidden_size % part.num_heads:
            yield f"hidden_size {part.hidden_size} is no multiple of {part.num_heads} heads"
    if any(not 0 <= layer < vision.depth for layer in vision.full_attention_layers):
        layers = vision.full_attention_layers
        yield f"full_attention_layers {layers} are not all of the {vision.depth} layers"
    for name in ("image_token_id", "video_token_id"):
        if not 0 <= getattr(config, name) < text.vocab_size:
            yield f"{name} is {getattr(config, name)}, not one of the {text.vocab_size:,} tokens"
    if len(text.mrope_section) != 3:
        yield f"mrope_section {text.mrope_section} has not three numbers"
    if text.num_heads % text.num_kv_heads:
        yield f"{text.num_heads} heads are no multiple of {text.num_kv_heads} key-value heads"
    if 2 * sum(text.mrope_section) != text.head_dim:
        yield f"mrope_section {text.mrope_section} does not fill half of {text.head_dim} features"
    if not vision.window_tokens:
        yield f"window_size {vision.window_size} is less than a merged token"


def _check_supported(hf: Qwen2_5_VLConfig, path: Path) -> None:
    if hf.text_config.sliding_window is not None:
        raise ValueError(f"{path}: use_sliding_window is set; sliding windows are not implemented")
    rope = hf.text_config.rope_parameters
    if rope.get("rope_type", "default") != "default" or "mrope_section" not in rope:
        raise ValueError(f"{path}: rotary embedding {rope} is not M-RoPE with an mrope_section")
    for part in (hf.text_config, hf.vision_config):
        if part.hidden_act != "silu":
            raise ValueError(f"{path}: hidden_act {part.hidden_act!r}, only 'silu' is implemented")


def _vision_config(hf) -> VisionConfig:
    return VisionConfig(
        depth=hf.depth,
        hidden_size=hf.hidden_size,
        intermediate_size=hf.intermediate_size,
        num_heads=hf.num_heads,
        out_hidden_size=hf.out_hidden_size,
        full_attention_layers=tuple(hf.fullatt_block_indexes),
        patch_size=hf.patch_size,
        temporal_patch_size=hf.temporal_patch_size,
        merge_size=hf.spatial_merge_size,
        window_size=hf.window_size,
        in_channels=hf.in_channels,
        rope_theta=hf.rope_parameters["rope_theta"],
    )


def _text_config(hf, *, tie: bool) -> TextConfig:
    return TextConfig(
        vocab_size=hf.vocab_size,
        hidden_size=hf.hidden_size,
        intermediate_size=hf.intermediate_size,
        num_layers=hf.num_hidden_layers,
        num_heads=hf.num_attention_heads,
        num_kv_heads=hf.num_key_value_heads,
        mrope_section=tuple(hf.rope_parameters["mrope_section"]),
        rope_theta=hf.rope_parameters["rope_theta"],
        rms_norm_eps=hf.rms_norm_eps,
        tie_word_embeddings=tie,
    )
