"""The sharding table refuses what cannot be meant."""

import dataclasses

import jax
import pytest
from jax.sharding import PartitionSpec

from lrt_jax.models import param_shardings, qwen2_5_vl, undivided_parameters
from lrt_jax.models.qwen2_5_vl.sharding import RULES
from lrt_jax.models.qwen2_5_vl.weights import weight_table
from lrt_jax.models.weights import Weight
from lrt_jax.parallel.mesh import AXES, make_mesh
from lrt_jax.parallel.rules import ACTIVATIONS, partition_spec, sharding
from lrt_jax.training import setup
from tests.logs import logged
from tests.parallel.sizes import model_of_sizes
from tests.training.small_run import tiny_config


def test_layouts_differ_where_they_should():
    axes = ("layers", "embed", "heads", "head_dim")
    assert partition_spec(axes, "train", RULES) == PartitionSpec(
        None, ("fsdp", "attn_dp"), "tensor", None
    )
    assert partition_spec(axes, "sample", RULES) == PartitionSpec(None, None, "tensor", None)


def test_unknown_axis_is_named():
    with pytest.raises(KeyError, match="'haeds' has no rule"):
        partition_spec(("embed", "haeds"), "train", RULES)


def test_collision_names_both_axes():
    with pytest.raises(ValueError, match="'heads' and 'mlp' both claim mesh axis 'tensor'"):
        partition_spec(("heads", "mlp"), "train", RULES)


def test_axes_that_do_not_divide_stay_whole():
    mesh = make_mesh(fsdp=1, tensor=4)
    axes = ("layers", "embed", "kv_heads", "head_dim")
    assert sharding(mesh, axes, "train", (3, 96, 2, 24), RULES).spec[2] is None
    assert sharding(mesh, axes, "train", (3, 96, 4, 24), RULES).spec[2] == "tensor"


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


def test_every_rule_has_both_columns_and_axes_of_the_mesh():
    for axis, columns in (ACTIVATIONS | RULES).items():
        assert columns.keys() == {"train", "sample"}, axis
        for taken in columns.values():
            assert set((taken,) if isinstance(taken, str) else taken or ()) <= set(AXES), axis


def test_axes_without_rules_and_rules_without_axes_are_named(monkeypatch):
    monkeypatch.setitem(RULES, "experts", {"train": "tensor", "sample": "tensor"})
    monkeypatch.delitem(RULES, "kv_heads")
    model = model_of_sizes("tiny")
    with pytest.raises(ValueError) as told:
        param_shardings(model, make_mesh(), "train")
    assert "without a rule: 'kv_heads' of decoder/layers/k/kernel, 'kv_heads' of" in str(told.value)
    assert "rules that no parameter uses: 'experts'" in str(told.value)


def test_parameters_without_weights_and_weights_without_parameters_are_named(monkeypatch):
    def another_table(config):
        table = weight_table(config)
        del table["decoder/norm/scale"]
        return table | {"decoder/final/scale": Weight("decoder/final/scale", "f", ("norm",))}

    changed = dataclasses.replace(qwen2_5_vl.FAMILY, weight_table=another_table)
    monkeypatch.setattr(qwen2_5_vl, "FAMILY", changed)
    with pytest.raises(ValueError) as told:
        param_shardings(model_of_sizes("tiny"), make_mesh(), "train")
    assert "that the table does not know: decoder/norm/scale;" in str(told.value)
    assert "that are no parameter: decoder/final/scale" in str(told.value)


def test_copies_of_key_value_heads_are_told(data, tmp_path, monkeypatch):
    """The tiny model has two."""
    monkeypatch.setattr(setup, "make_mesh", lambda *_: make_mesh(tensor=4))
    with logged() as lines:
        setup.open_run(tiny_config(data), tmp_path)
    note = next(line for line in lines if line.startswith("note: the mesh does not divide"))
    assert "decoder/layers/k/kernel, decoder/layers/v/bias" in note.replace("k/bias, ", "")
    assert note.endswith("devices hold copies of them") and "layers/q/" not in note
