"""Random tiny Qwen2.5-VL checkpoints made by transformers itself, and inputs for them."""

import dataclasses
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers import (
    GenerationConfig,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLImageProcessorPil,
)

VISION_START, VISION_END, IMAGE, VIDEO, END = 1, 2, 3, 4, 5
FIRST_TEXT = 8


@dataclasses.dataclass(frozen=True)
class Shape:
    """Sizes of a tiny checkpoint."""

    hidden: int = 32
    layers: int = 2
    heads: int = 4
    kv_heads: int = 2
    mlp: int = 48
    vocab: int = 96
    tie: bool = False
    vision_hidden: int = 32
    vision_heads: int = 2
    vision_depth: int = 3
    full_attention: tuple[int, ...] = (1,)
    window: int = 112
    mrope: tuple[int, int, int] = (2, 1, 1)


SHAPES = {
    "tied": Shape(tie=True),
    "three_kv_heads": Shape(hidden=72, heads=6, kv_heads=3, mrope=(2, 2, 2), layers=3),
    "small_windows": Shape(window=56, vision_depth=4, full_attention=(1, 3), heads=2, kv_heads=1,
                           mrope=(4, 2, 2)),
}  # fmt: skip


def make_checkpoint(folder: Path, shape: Shape, *, seed: int = 0, hub_layout: bool = True):
    """A random checkpoint on disk, biases and norms randomised too.

    `hub_layout` False is transformers' own layout of today: nested names.
    """
    torch.manual_seed(seed)
    model = Qwen2_5_VLForConditionalGeneration(_config(shape)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:
                parameter.copy_(
                    torch.randn_like(parameter) * 0.1 + float("norm" in name or "ln_q" in name)
                )
            else:
                parameter.copy_(torch.randn_like(parameter) * parameter[0].numel() ** -0.5 * 1.4)
    model.generation_config = GenerationConfig(eos_token_id=END, pad_token_id=0, do_sample=False)
    model.save_pretrained(folder, save_original_format=hub_layout, max_shard_size="60KB")
    return model


def random_images(seed: int, count: int) -> list[Image.Image]:
    """Odd-sized images of noise."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(40, 250, (count, 2))
    return [Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)) for size in sizes]


def make_inputs(counts: list[int], shape: Shape, *, padding_side: str, seed: int = 0) -> dict:
    """What the processor returns for one row per entry of `counts`, its number of images."""
    rng = np.random.default_rng(seed)
    processor = Qwen2VLImageProcessorPil(min_pixels=56 * 56, max_pixels=196 * 196)
    images = random_images(seed, sum(counts))
    seen = processor(images=images, return_tensors="np")
    grids, rows = list(seen["image_grid_thw"]), []

    def text():
        return rng.integers(FIRST_TEXT, shape.vocab, rng.integers(2, 9)).tolist()

    for count in counts:
        row = text()
        for _ in range(count):
            tokens = int(np.prod(grids.pop(0))) // 4
            row += [VISION_START, *[IMAGE] * tokens, VISION_END, *text()]
        rows.append(row)
    width = max(map(len, rows))
    ids, mask = np.zeros((len(rows), width), np.int64), np.zeros((len(rows), width), np.int64)
    for i, row in enumerate(rows):
        place = slice(width - len(row), width) if padding_side == "left" else slice(0, len(row))
        ids[i, place], mask[i, place] = row, 1
    return {
        "input_ids": ids,
        "attention_mask": mask,
        "mm_token_type_ids": (ids == IMAGE).astype(np.int64),
        "pixel_values": seen["pixel_values"],
        "image_grid_thw": seen["image_grid_thw"],
    }


def as_torch(inputs: dict) -> dict:
    return {name: torch.as_tensor(value) for name, value in inputs.items()}


def _config(s: Shape) -> Qwen2_5_VLConfig:
    return Qwen2_5_VLConfig(
        text_config=dict(
            vocab_size=s.vocab,
            hidden_size=s.hidden,
            intermediate_size=s.mlp,
            num_hidden_layers=s.layers,
            num_attention_heads=s.heads,
            num_key_value_heads=s.kv_heads,
            rms_norm_eps=1e-6,
            rope_parameters={
                "rope_type": "default",
                "rope_theta": 1e6,
                "mrope_section": list(s.mrope),
            },
            eos_token_id=END,
            tie_word_embeddings=s.tie,
        ),
        vision_config=dict(
            depth=s.vision_depth,
            hidden_size=s.vision_hidden,
            intermediate_size=40,
            num_heads=s.vision_heads,
            out_hidden_size=s.hidden,
            fullatt_block_indexes=list(s.full_attention),
            window_size=s.window,
        ),
        image_token_id=IMAGE,
        video_token_id=VIDEO,
        vision_start_token_id=VISION_START,
        vision_end_token_id=VISION_END,
        tie_word_embeddings=s.tie,
    )
