"""The sharding table refuses what cannot be meant."""

import jax
import pytest
from jax.sharding import PartitionSpec

from lrt_jax.models import param_shardings, undivided_parameters
from lrt_jax.models.qwen2_5_vl.weights import weight_table
from lrt_jax.parallel.mesh import make_mesh
from lrt_jax.parallel.rules import RULES, partition_spec, sharding


def test_layouts_differ_where_they_should():
    axes = ("layers", "embed", "heads", "head_dim")
    assert partition_spec(axes, "train") == PartitionSpec(None, "fsdp", "tensor", None)
    assert partition_spec(axes, "sample") == PartitionSpec(None, None, "tensor", None)


def test_unknown_axis_is_named():
    with pytest.raises(KeyError, match="'haeds' has no rule"):
        partition_spec(("embed", "haeds"), "train")


def test_collision_names_both_axes():
    with pytest.raises(ValueError, match="'heads' and 'mlp' both claim mesh axis 'tensor'"):
        partition_spec(("heads", "mlp"), "train")


def test_axes_that_do_not_divide_stay_whole():
    mesh = make_mesh(fsdp=1, tensor=4)
    axes = ("layers", "embed", "kv_heads", "head_dim")
    assert sharding(mesh, axes, "train", (3, 96, 2, 24)).spec[2] is None
    assert sharding(mesh, axes, "train", (3, 96, 4, 24)).spec[2] == "tensor"


def test_every_parameter_has_rules(both):
    for weight in weight_table(both.model.config).values():
        assert set(weight.axes) <= set(RULES), weight.path
    mesh = make_mesh(fsdp=2, tensor=2)
    for layout in ("train", "sample"):
        placed = jax.device_put(both.params, param_shardings(both.model, mesh, layout))
        assert jax.tree.structure(placed) == jax.tree.structure(both.params)
        whole = undivided_parameters(both.model, mesh, layout)
        odd_heads = both.model.config.text.num_kv_heads % 2 == 1
        assert ("decoder/layers/k/kernel" in whole) == odd_heads
        assert "decoder/layers/q/kernel" not in whole
