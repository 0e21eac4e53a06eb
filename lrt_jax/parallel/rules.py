"""The one table that maps logical axes to mesh axes, with a column for training and for sampling.

Training spreads parameters over `fsdp` and `tensor` and the batch over all axes. Sampling keeps
parameters whole but for `tensor`: a decode step must not gather shards for every token.
"""

from collections.abc import Iterable, Mapping
from typing import Literal

from jax.sharding import Mesh, NamedSharding, PartitionSpec

Layout = Literal["train", "sample"]
MeshAxes = str | tuple[str, ...] | None

ACTIVATION_AXES = ("batch", "looked_up", "rows_looked_up")
RULES: dict[str, dict[Layout, MeshAxes]] = {
    # activations
    "batch": {"train": ("data", "fsdp", "tensor"), "sample": ("data", "fsdp")},
    # columns of the embedding while tokens are looked up; see `models.layers.embed`
    "looked_up": {"train": ("fsdp", "tensor"), "sample": None},
    "rows_looked_up": {"train": "data", "sample": None},  # tokens, meanwhile
    # parameters of the decoder
    "layers": {"train": None, "sample": None},
    "vocab": {"train": "tensor", "sample": "tensor"},
    "embed": {"train": "fsdp", "sample": None},
    "heads": {"train": "tensor", "sample": "tensor"},
    "kv_heads": {"train": "tensor", "sample": "tensor"},
    "head_dim": {"train": None, "sample": None},
    "mlp": {"train": "tensor", "sample": "tensor"},
    "norm": {"train": None, "sample": None},
    # parameters of the vision tower
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


def check_rules(parameters: Mapping[str, Iterable[str]]) -> None:
    """Holds the table against what it is for, both ways.

    Args:
      parameters: logical axes of every parameter, by path.

    Raises:
      ValueError: a parameter has an axis without a rule, or nothing has an axis that has one; all
        of both are named.
    """
    unruled = [
        f"{axis!r} of {path}"
        for path, axes in parameters.items()
        for axis in dict.fromkeys(axes)
        if axis not in RULES
    ]
    used = {axis for axes in parameters.values() for axis in axes}.union(ACTIVATION_AXES)
    orphans = [repr(axis) for axis in RULES if axis not in used]
    if unruled or orphans:
        raise ValueError(
            "the sharding table and the model do not fit: "
            f"logical axes without a rule: {', '.join(unruled) or 'none'}; "
            f"rules that no parameter or activation uses: {', '.join(orphans) or 'none'}"
        )


def partition_spec(axes: Iterable[str | None], layout: Layout) -> PartitionSpec:
    """Where an array with these logical axes lives.

    Raises:
      KeyError: a logical axis has no rule.
      ValueError: two of the logical axes claim one mesh axis.
    """
    taken: dict[str, str] = {}
    spec = []
    for axis in axes:
        if axis is not None and axis not in RULES:
            raise KeyError(f"logical axis {axis!r} has no rule; known: {', '.join(RULES)}")
        mesh_axes = None if axis is None else RULES[axis][layout]
        for mesh_axis in (mesh_axes,) if isinstance(mesh_axes, str) else mesh_axes or ():
            if mesh_axis in taken:
                raise ValueError(
                    f"logical axes {taken[mesh_axis]!r} and {axis!r} both claim mesh axis "
                    f"{mesh_axis!r} in the {layout} layout"
                )
            taken[mesh_axis] = axis
        spec.append(mesh_axes)
    return PartitionSpec(*spec)


def sharding(
    mesh: Mesh, axes: Iterable[str | None], layout: Layout, shape: tuple[int, ...] | None = None
) -> NamedSharding:
    """`partition_spec` on a mesh; with a `shape`, axes that a mesh axis does not divide stay whole.

    Small heads, such as two key-value heads on four devices, are then replicated.
    """
    spec = partition_spec(axes, layout)
    if shape is not None:
        spec = PartitionSpec(
            *(
                names if size % _extent(mesh, names) == 0 else None
                for size, names in zip(shape, spec, strict=True)
            )
        )
    return NamedSharding(mesh, spec)


def _extent(mesh: Mesh, names: MeshAxes) -> int:
    size = 1
    for name in (names,) if isinstance(names, str) else names or ():
        size *= mesh.shape[name]
    return size
