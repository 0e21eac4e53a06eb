"""Where every parameter lives, as a page that a change of the rules must change too.

LRT_WRITE_DOCS=1 python -m pytest tests/parallel/test_golden_shardings.py
"""

import os
from collections.abc import Iterator
from pathlib import Path

import jax
from flax import traverse_util
from jax.sharding import AbstractMesh, PartitionSpec

from lrt_jax.models import VisionLanguageModel, init_params, param_shardings
from lrt_jax.models.qwen2_5_vl.weights import weight_table
from lrt_jax.parallel.mesh import AXES
from tests.parallel.sizes import model_of_sizes

PAGE = Path(__file__).parent / "golden_shardings.txt"
MESHES = {
    "tiny": (2, 2, 2, 2),
    "3b": (2, 2, 2, 4),
    "7b": (2, 2, 2, 4),
}  # 4 are more than 3b's 2 KV heads
HEAD = f"""Where every parameter lives, axis by axis; `.` is whole on all devices. Made by
LRT_WRITE_DOCS=1 python -m pytest tests/parallel/{Path(__file__).name}
"""


def test_parameters_live_where_the_page_says():
    page = HEAD + "".join(
        line.rstrip() + "\n" for name in MESHES for line in section(name, MESHES[name])
    )
    if os.environ.get("LRT_WRITE_DOCS"):
        PAGE.write_text(page)
    assert PAGE.read_text() == page


def section(name: str, extents: tuple[int, ...]) -> Iterator[str]:
    """A model on a mesh."""
    mesh = AbstractMesh(extents, AXES)
    yield ""
    yield f"{name} on " + " x ".join(f"{axis} {n}" for axis, n in mesh.shape.items())
    rows = [("parameter", "shape", "logical axes", "train", "sample"), *parameters(name, mesh)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))


def parameters(name: str, mesh: AbstractMesh) -> Iterator[tuple[str, ...]]:
    model = model_of_sizes(name)
    table = weight_table(model.config)
    layouts = [specs(model, mesh, layout) for layout in ("train", "sample")]
    shapes = jax.eval_shape(lambda key: init_params(model, key), jax.random.key(0))
    for path, leaf in sorted(traverse_util.flatten_dict(shapes, sep="/").items()):
        axes, shape = " ".join(table[path].axes), " ".join(map(str, leaf.shape))
        yield path, shape, axes, *(written(layout[path]) for layout in layouts)


def specs(model: VisionLanguageModel, mesh: AbstractMesh, layout) -> dict[str, PartitionSpec]:
    tree = param_shardings(model, mesh, layout)
    return {path: x.spec for path, x in traverse_util.flatten_dict(tree, sep="/").items()}


def written(spec: PartitionSpec) -> str:
    return " ".join(
        "." if names is None else names if isinstance(names, str) else "+".join(names)
        for names in spec
    )
