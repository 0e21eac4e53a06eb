"""What to change is said of what is largest where a run does not fit."""

import dataclasses

import pytest

from lrt_jax.config import Config, parse_config
from lrt_jax.config.presets import preset_config
from lrt_jax.planning.remedies import budget, remedies
from lrt_jax.planning.topology import GIB, Topology
from tests.planning.made import figures

pytestmark = pytest.mark.usefixtures("unchecked")
EIGHT = Topology("v5e:2x4")


def config(**changes) -> Config:
    values = preset_config("7b")
    values.data.source = "scenes"
    values.update_from_flattened_dict({"batch_size": 64, "mesh.tensor": 4} | changes)
    return parse_config(values)


def told(*pieces, topology: Topology = EIGHT, **changes) -> str:
    return "\n".join(remedies(config(**changes), topology, pieces))


def test_nothing_is_to_be_changed_where_all_fits():
    assert told(figures("update", temporaries=14.1)) == ""
    assert budget(EIGHT) == pytest.approx(0.9 * 15.75 * GIB)


def test_an_update_is_cut_into_as_few_microbatches_as_are_enough():
    lines = told(figures("update", temporaries=18.0, parameters=1.0))
    # Of 18 GiB 17 grow with the rows; in several passes 4.5 stay: 1 + 4.5 + 17 / 2.
    assert lines.startswith("update: loss.microbatches=2 makes about 14.0 GiB of 19.0")


def test_more_microbatches_than_there_are():
    lines = told(figures("update", temporaries=16.5, parameters=1.0), **{"loss.microbatches": 2})
    assert lines.startswith("update: loss.microbatches=4 makes about 11.5 GiB of 17.5")


def test_microbatches_divide_the_batch_over_the_chips():
    lines = told(figures("update", temporaries=45.0, parameters=1.0))
    assert "loss.microbatches=8 makes about 11.0" in lines  # 5, 6 and 7 do not divide
    lines = told(figures("update", temporaries=500.0, parameters=1.0))
    assert "microbatches" not in lines.splitlines()[0]  # one row a chip is not enough


def test_where_no_microbatches_are_enough_a_batch_without_any_may_be():
    """Gradients of several microbatches are added up beside each other."""
    parts = {"temporaries": 11.0, "parameters": 2.0, "frozen_models": 3.1}
    changes = {"loss.microbatches": 8, "model.remat": "full"}
    lines = told(figures("update", **parts), **changes)
    wanted = "update: batch_size=8 with loss.microbatches=1 makes about 12.6 GiB of 16.1"
    assert lines.startswith(wanted)
    listener = told(figures("listener", **parts | {"temporaries": 200.0}), **changes)
    assert "with loss.microbatches=1" not in listener  # which adds up no gradients


def test_frozen_passes_are_cut_up_too():
    parts = {"temporaries": 20.0, "parameters": 2.0, "frozen_models": 2.0}
    lines = told(figures("listener", **parts))
    assert lines.startswith("listener: loss.microbatches=2 makes about 14.0 GiB of 24.0")


def test_rollouts_want_a_smaller_batch_and_not_microbatches():
    lines = told(figures("rollout", temporaries=20.0, parameters=2.0, frozen_models=2.0))
    assert lines.startswith("rollout: batch_size=32 makes about 14.0 GiB of 24.0")


def test_evaluations_have_a_batch_of_their_own():
    lines = told(figures("eval_listener", evaluates=True, temporaries=20.0), batch_size=8)
    assert lines.startswith("eval_listener: eval.batch_size=88 makes about 13.8 GiB of 20.0")


def test_a_copy_for_sampling_is_shared_by_more():
    parts = {"temporaries": 3.0, "parameters": 2.0, "copy for sampling": 12.0}
    lines = told(figures("rollout", **parts), **{"mesh.tensor": 2})
    assert lines.startswith("rollout: mesh.tensor=4 makes about 11.0 GiB of 17.0")


@pytest.mark.parametrize(
    "changes",
    [
        {},  # with `attn_dp` 2 the preset's mesh has all eight chips
        {"mesh.attn_dp": 1, "mesh.data": 2},
        {"mesh.attn_dp": 1, "mesh.fsdp": 2},
    ],
)
def test_a_copy_is_not_shared_by_more_than_the_mesh_has_left(changes):
    parts = {"temporaries": 3.0, "parameters": 2.0, "copy for sampling": 12.0}
    assert "mesh.tensor" not in told(figures("rollout", **parts), **changes)


def test_moments_can_be_halved():
    lines = told(figures("copy", optimizer=12.0, parameters=4.0))
    assert lines.startswith("copy: optimizer.mu_dtype=bfloat16 makes about 13.0 GiB of 16.0")


def test_more_and_larger_chips_that_may_be_enough_are_named():
    lines = told(figures("update", temporaries=30.0), figures("rollout", copy_for_sampling=4.0))
    assert "--topology=v5e:4x8, about 10.1 GiB" in lines
    assert "--topology=v5p:2x2x2, about 30.0 GiB" in lines
    assert "--topology=v4:2x2x4, about 20.2 GiB" in lines


@pytest.mark.parametrize(
    "changes", [{"loss.microbatches": 8}, {"eval.batch_size": 8}, {"mesh.fsdp": 1}]
)
def test_more_chips_over_which_rows_or_mesh_do_not_divide_are_not_named(changes):
    lines = told(figures("update", temporaries=30.0), **changes)
    assert "--topology=v5p:2x2x2" in lines  # as many as there are
    assert "v5e:" not in lines and "v4:" not in lines


def test_where_no_slice_is_enough():
    lines = told(figures("update", **{"copy_for_sampling": 200.0}))
    assert "none of the usual slices is enough" in lines


def test_a_piece_that_would_not_compile_is_no_smaller_than_the_chip():
    made = figures("update", temporaries=20.0)
    refused = dataclasses.replace(
        made, compiled=dataclasses.replace(made.compiled, refused="no", program=None)
    )
    assert told(refused).startswith("update: loss.microbatches=2")
