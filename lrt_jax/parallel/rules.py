"""Logical axes to mesh axes, in tables with a column for training and one for sampling.

The table of activations is here; that of a family's parameters is its `sharding.py`. Training
spreads parameters over all axes but `data`, and the batch over all. Sampling keeps parameters
whole but for `tensor`: a decode step must not gather shards for every token.
"""

from collections.abc import Iterable, Mapping
from typing import Literal

from jax.sharding import Mesh, NamedSharding, PartitionSpec

Layout = Literal["train", "sample"]
MeshAxes = str | tuple[str, ...] | None
Rules = Mapping[str, Mapping[Layout, MeshAxes]]  # mesh axes by logical axis and layout

ACTIVATIONS: Rules = {
    "batch": {
        "train": ("data", "fsdp", "attn_dp", "tensor"),
        "sample": ("data", "fsdp", "attn_dp"),
    },
    # where they meet a vocabulary that is divided over `attn_dp` too
    "head_batch": {"train": ("data", "fsdp", "attn_dp", "tensor"), "sample": ("data", "fsdp")},
    # columns of the embedding while tokens are looked up; see `models.layers.embed`
    "lookup_features": {"train": ("fsdp", "attn_dp", "tensor"), "sample": None},
    "lookup_batch": {"train": "data", "sample": None},  # tokens, meanwhile
}


def check_rules(parameters: Mapping[str, Iterable[str]], rules: Rules) -> None:
    """Checks that every logical axis of a family's parameters has a rule, and every rule a use.

    Args:
      parameters: logical axes of every parameter, by path.
      rules: of the parameters' axes.

    Raises:
      ValueError: a parameter has an axis without a rule, or nothing has an axis that has one; all
        of both are named.
    """
    unruled = [
        f"{axis!r} of {path}"
        for path, axes in parameters.items()
        for axis in dict.fromkeys(axes)
        if axis not in rules
    ]
    used = {axis for axes in parameters.values() for axis in axes}
    orphans = [repr(axis) for axis in rules if axis not in used]
    if unruled or orphans:
        raise ValueError(
            "the sharding table and the model do not fit: "
            f"logical axes without a rule: {', '.join(unruled) or 'none'}; "
            f"rules that no parameter uses: {', '.join(orphans) or 'none'}"
        )


def partition_spec(
    axes: Iterable[str | None], layout: Layout, rules: Rules = ACTIVATIONS
) -> PartitionSpec:
    """Where an array with these logical axes lives.

    Raises:
      KeyError: a logical axis has no rule.
      ValueError: two of the logical axes claim one mesh axis.
    """
    taken: dict[str, str] = {}
    spec = []
    for axis in axes:
        if axis is not None and axis not in rules:
            raise KeyError(f"logical axis {axis!r} has no rule; known: {', '.join(rules)}")
        mesh_axes = None if axis is None else rules[axis][layout]
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
    mesh: Mesh,
    axes: Iterable[str | None],
    layout: Layout,
    shape: tuple[int, ...] | None = None,
    rules: Rules = ACTIVATIONS,
) -> NamedSharding:
    """`partition_spec` on a mesh; with a `shape`, axes that a mesh axis does not divide stay whole.

    Small heads, such as two key-value heads on four devices, are then replicated.
    """
    spec = partition_spec(axes, layout, rules)
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
