"""Qwen2.5-VL's weights: what each is called on disk, and its logical axes."""

import functools
from collections.abc import Iterator

from lrt_jax.models.qwen2_5_vl.config import ModelConfig
from lrt_jax.models.weights import Weight


def weight_table(config: ModelConfig) -> dict[str, Weight]:
    """Every parameter of a checkpoint, by our path."""
    table = {weight.path: weight for weight in _weights()}
    if config.text.tie_word_embeddings:
        del table["head"]
    return table


@functools.cache
def logical_axes() -> dict[str, tuple[str, ...]]:
    """Those of every parameter, by our path."""
    return {weight.path: weight.axes for weight in _weights()}


def _weights() -> Iterator[Weight]:
    yield from _vision_weights()
    yield from _decoder_weights()
    table = dict(axes=("vocab", "embed"), kind="table")
    yield Weight("embedding", "model.embed_tokens.weight", **table)
    yield Weight("decoder/norm/scale", "model.norm.weight", ("norm",))
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
    ours, hub, once = "vision/merger", "visual.merger.mlp", dict(bias=True, stacked=False)
    yield from _dense(f"{ours}/fc1", f"{hub}.0", ("merged",), ("merger_mlp",), **once)
    yield from _dense(f"{ours}/fc2", f"{hub}.2", ("merger_mlp",), ("embed",), **once)


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
