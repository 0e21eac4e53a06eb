"""The one table of weight names, read in both directions: hub names and shapes, and ours.

Ours are `[*inputs, *outputs]` with heads spelled out and layers stacked in front; the hub's are
`[outputs, inputs]`, one tensor a layer.
"""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Set
from typing import Literal

import numpy as np

from lrt_jax.models.qwen2_5_vl.config import ModelConfig
from lrt_jax.parallel.rules import check_rules

Kind = Literal["matrix", "vector", "table", "conv"]


@dataclasses.dataclass(frozen=True)
class Weight:
    """One parameter of ours and what it is called on disk.

    Attributes:
      path: of our parameter, joined by `/`.
      name: on disk, hub spelling, with `{}` for the layer where ours are stacked.
      axes: logical axes of our parameter, `layers` first where stacked (see `parallel.rules`).
      kind: how the two shapes relate: `matrix` is transposed and flattened, `conv` transposed,
        `vector` flattened, `table` the same.
      inputs: how many of our axes (without `layers`) are inputs of the product.
    """

    path: str
    name: str
    axes: tuple[str, ...]
    kind: Kind = "vector"
    inputs: int = 0

    @property
    def stacked(self) -> bool:
        return self.axes[0] == "layers"

    def to_disk(self, value: np.ndarray) -> np.ndarray:
        """One layer's value, in the hub's shape."""
        if self.kind == "table":
            return value
        if self.kind == "vector":
            return value.reshape(-1)
        outputs_first = np.moveaxis(value, range(self.inputs), range(-self.inputs, 0))
        if self.kind == "conv":
            return outputs_first
        return outputs_first.reshape(-1, math.prod(value.shape[: self.inputs]))

    def from_disk(self, value: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """One layer's value of our `shape`, from the hub's."""
        if self.kind in ("table", "vector"):
            return value.reshape(shape)
        inputs, outputs = shape[: self.inputs], shape[self.inputs :]
        value = value.reshape(*outputs, *inputs)
        return np.moveaxis(value, range(-self.inputs, 0), range(self.inputs))

    def disk_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The hub's shape of one layer whose shape is `shape` with us."""
        return self.to_disk(np.broadcast_to(np.uint8(0), shape)).shape


def weight_table(config: ModelConfig) -> dict[str, Weight]:
    """Every parameter of a checkpoint, by our path."""
    weights = [*_vision_weights(), *_decoder_weights(), *_top_weights(config)]
    return {weight.path: weight for weight in weights}


def check_table(table: Mapping[str, Weight], parameters: Set[str]) -> None:
    """Holds the table against the model's parameters and the sharding rules, both ways.

    Args:
      table: of `weight_table`.
      parameters: paths of what the model has.

    Raises:
      ValueError: a parameter is not in the table, or the reverse, or see `check_rules`.
    """
    unknown, missing = sorted(parameters - table.keys()), sorted(table.keys() - parameters)
    if unknown or missing:
        raise ValueError(
            "the weight table and the model do not fit: "
            f"parameters that the table does not know: {', '.join(unknown) or 'none'}; "
            f"weights of the table that are no parameter: {', '.join(missing) or 'none'}"
        )
    check_rules({path: weight.axes for path, weight in table.items()})


def _top_weights(config: ModelConfig) -> Iterator[Weight]:
    table = dict(axes=("vocab", "embed"), kind="table")
    yield Weight("embedding", "model.embed_tokens.weight", **table)
    yield Weight("decoder/norm/scale", "model.norm.weight", ("norm",))
    if not config.text.tie_word_embeddings:
        yield Weight("head", "lm_head.weight", **table)


def _decoder_weights() -> Iterator[Weight]:
    ours, hub = "decoder/layers", "model.layers.{}"
    yield from _norms(
        ours, hub, {"input_norm": "input_layernorm", "post_norm": "post_attention_layernorm"}
    )
    for letter, heads in (("q", "heads"), ("k", "kv_heads"), ("v", "kv_heads")):
        path, name = f"{ours}/{letter}", f"{hub}.self_attn.{letter}_proj"
        yield from _dense(path, name, ("embed",), (heads, "head_dim"), bias=True)
    path, name = f"{ours}/o", f"{hub}.self_attn.o_proj"
    yield from _dense(path, name, ("heads", "head_dim"), ("embed",), bias=False)
    yield from _mlp(f"{ours}/mlp", f"{hub}.mlp", "embed", "mlp", bias=False)


def _vision_weights() -> Iterator[Weight]:
    ours, hub = "vision/blocks", "visual.blocks.{}"
    yield Weight(
        "vision/patch_embed/kernel",
        "visual.patch_embed.proj.weight",
        ("channels", "frames", "rows", "columns", "vision_embed"),
        "conv",
        inputs=4,
    )
    yield from _norms(ours, hub, {"norm1": "norm1", "norm2": "norm2"})
    qkv_out = ("qkv", "vision_heads", "vision_head_dim")
    yield from _dense(f"{ours}/qkv", f"{hub}.attn.qkv", ("vision_embed",), qkv_out, bias=True)
    yield from _dense(f"{ours}/proj", f"{hub}.attn.proj", qkv_out[1:], ("vision_embed",), bias=True)
    yield from _mlp(f"{ours}/mlp", f"{hub}.mlp", "vision_embed", "vision_mlp", bias=True)
    yield Weight("vision/merger/norm/scale", "visual.merger.ln_q.weight", ("norm",))
    for path, name, axes in (
        ("fc1", "mlp.0", ("merged", "merger_mlp")),
        ("fc2", "mlp.2", ("merger_mlp", "embed")),
    ):
        path, name = f"vision/merger/{path}", f"visual.merger.{name}"
        yield from _dense(path, name, axes[:1], axes[1:], bias=True, stacked=False)


def _mlp(path: str, name: str, embed: str, mlp: str, *, bias: bool) -> Iterator[Weight]:
    for part, inputs, outputs in (("gate", embed, mlp), ("up", embed, mlp), ("down", mlp, embed)):
        yield from _dense(f"{path}/{part}", f"{name}.{part}_proj", (inputs,), (outputs,), bias=bias)


def _dense(path, name, inputs, outputs, *, bias: bool, stacked: bool = True) -> Iterator[Weight]:
    layers = ("layers",) if stacked else ()
    kernel = (*layers, *inputs, *outputs)
    yield Weight(f"{path}/kernel", f"{name}.weight", kernel, "matrix", inputs=len(inputs))
    if bias:
        yield Weight(f"{path}/bias", f"{name}.bias", (*layers, *outputs))


def _norms(path: str, name: str, names: dict[str, str]) -> Iterator[Weight]:
    for ours, theirs in names.items():
        yield Weight(f"{path}/{ours}/scale", f"{name}.{theirs}.weight", ("layers", "norm"))
