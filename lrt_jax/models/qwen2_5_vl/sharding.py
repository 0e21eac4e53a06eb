"""The sharding table of Qwen2.5-VL's parameters: logical axes to mesh axes, by layout."""

from lrt_jax.parallel.rules import Rules

RULES: Rules = {
    # the decoder
    "layers": {"train": None, "sample": None},
    "vocab": {"train": "tensor", "sample": "tensor"},
    "embed": {"train": "fsdp", "sample": None},
    "heads": {"train": "tensor", "sample": "tensor"},
    "kv_heads": {"train": "tensor", "sample": "tensor"},
    "head_dim": {"train": None, "sample": None},
    "mlp": {"train": "tensor", "sample": "tensor"},
    "norm": {"train": None, "sample": None},
    # the vision tower
    "channels": {"train": None, "sample": None},
    "frames": {"train": None, "sample": None},
    "rows": {"train": None, "sample": None},
    "columns": {"train": None, "sample": None},
    "vision_embed": {"train": "fsdp", "sample": None},
    "qkv": {"train": None, "sample": None},
    "vision_heads": {"train": "tensor", "sample": "tensor"},
    "vision_head_dim": {"train": None, "sample": None},
    "vision_mlp": {"train": "tensor", "sample": "tensor"},
    "merged": {"train": None, "sample": None},
    "merger_mlp": {"train": "tensor", "sample": "tensor"},
}
