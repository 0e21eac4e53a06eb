"""The sharding table of Qwen2.5-VL's parameters: logical axes to mesh axes, by layout."""

from collections.abc import Callable

from jax.sharding import Mesh, PartitionSpec

from lrt_jax.models.qwen2_5_vl.weights import logical_axes
from lrt_jax.parallel.rules import Layout, Rules, sharding

RULES: Rules = {
    # the decoder
    "layers": {"train": None, "sample": None},
    "vocab": {"train": "tensor", "sample": ("attn_dp", "tensor")},
    "embed": {"train": ("fsdp", "attn_dp"), "sample": None},
    "heads": {"train": "tensor", "sample": "tensor"},
    "kv_heads": {"train": "tensor", "sample": "tensor"},
    "head_dim": {"train": None, "sample": None},
    "mlp": {"train": "tensor", "sample": ("attn_dp", "tensor")},
    "norm": {"train": None, "sample": None},
    # the vision tower
    "channels": {"train": None, "sample": None},
    "frames": {"train": None, "sample": None},
    "rows": {"train": None, "sample": None},
    "columns": {"train": None, "sample": None},
    "vision_embed": {"train": ("fsdp", "attn_dp"), "sample": None},
    "qkv": {"train": None, "sample": None},
    "vision_heads": {"train": "tensor", "sample": "tensor"},
    "vision_head_dim": {"train": None, "sample": None},
    "vision_mlp": {"train": "tensor", "sample": "tensor"},
    "merged": {"train": None, "sample": None},
    "merger_mlp": {"train": "tensor", "sample": "tensor"},
}


def specs(
    prefix: str, layout: Layout = "train"
) -> Callable[[Mesh, str, tuple[int, ...]], PartitionSpec]:
    """How parameters are divided, by their paths below a prefix; layers one by one."""

    def spec(mesh: Mesh, path: str, shape: tuple[int, ...]) -> PartitionSpec:
        axes = [axis for axis in logical_axes()[prefix + path] if axis != "layers"]
        return sharding(mesh, axes, layout, shape, RULES).spec

    return spec
