"""The one table of weight names, read in both directions: hub names and shapes, and ours.

Ours are `[*inputs, *outputs]` with heads spelled out and layers stacked in front; the hub's are
`[outputs, inputs]`, one tensor a layer.
"""

import dataclasses
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence, Set
from typing import Literal

import numpy as np

from lrt_jax.models.qwen2_5_vl.config import ModelConfig
from lrt_jax.parallel.rules import check_rules

Kind = Literal["matrix", "vector", "table", "conv"]
Block = Sequence[tuple[int, int]]  # begin and end on every axis
Part = tuple[slice, ...]


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
        order = [axis for group in self._groups() for axis in group]
        return value.transpose(order).reshape(self.disk_shape(value.shape))

    def from_disk(self, value: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """One layer's value of our `shape`, or a part of it, from the hub's."""
        order = [axis for group in self._groups() for axis in group]
        return value.reshape([shape[axis] for axis in order]).transpose(np.argsort(order))

    def disk_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The hub's shape of one layer whose shape is `shape` with us."""
        return tuple(math.prod(shape[axis] for axis in group) for group in self._groups())

    def parts(self, block: Block, shape: tuple[int, ...], rows: int) -> Iterator[tuple[Part, Part]]:
        """Cuts a block of one layer into parts that are blocks on disk too.

        Args:
          block: where it begins and ends on each of our axes (without `layers`).
          shape: ours, of the whole layer.
          rows: no part has more of the hub's rows, unless a single index of ours does.

        Yields:
          Where a part is in the block, and where in the hub's tensor.
        """
        groups, longest = self._groups(), (rows, *self.disk_shape(shape)[1:])
        order = [axis for group in groups for axis in group]
        runs = [
            list(_runs([block[a] for a in group], [shape[a] for a in group], most))
            for group, most in zip(groups, longest, strict=True)
        ]
        for part in itertools.product(*runs):
            ours = [place for run, _ in part for place in run]
            yield tuple(ours[i] for i in np.argsort(order)), tuple(place for _, place in part)

    def _groups(self) -> list[tuple[int, ...]]:
        """For each of the hub's axes, those of ours (without `layers`) that it flattens."""
        axes = tuple(range(len(self.axes) - self.stacked))
        inputs, outputs = axes[: self.inputs], axes[self.inputs :]
        if self.kind == "vector":
            return [axes]
        if self.kind == "matrix":
            return [outputs, inputs]
        return [(axis,) for axis in outputs + inputs]


def _runs(block: Block, shape: Sequence[int], longest: int) -> Iterator[tuple[Part, slice]]:
    """Cuts a block of axes that are flattened on disk into parts that lie there in one run.

    Yields where a part is in the block, and where on the flattened axis.
    """
    divided = [axis for axis, size in enumerate(shape) if block[axis] != (0, size)]
    cut = max(divided, default=0)  # the axes after it are whole, so that its runs are runs on disk
    inner, whole = math.prod(shape[cut + 1 :]), [slice(None)] * len(shape[cut + 1 :])
    begin, end = block[cut]
    step = max(1, longest // inner)
    for before in itertools.product(*(range(*bounds) for bounds in block[:cut])):
        first = int(np.ravel_multi_index((*before, 0), shape[: cut + 1]))
        inside = [i - bounds[0] for i, bounds in zip(before, block[:cut], strict=True)]
        for start in range(begin, end, step):
            stop = min(start + step, end)
            yield (
                (*[slice(i, i + 1) for i in inside], slice(start - begin, stop - begin), *whole),
                slice((first + start) * inner, (first + stop) * inner),
            )


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
