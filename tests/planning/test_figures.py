"""What a piece takes is added up: every array once, whoever holds it."""

import dataclasses

import jax
import numpy as np
import pytest

from lrt_jax.models.api import Flops
from lrt_jax.planning.compiling import compile_piece
from lrt_jax.planning.figures import figures_of
from lrt_jax.planning.topology import CHIPS, GIB
from lrt_jax.rl.tracing import Trace
from tests.planning.made import MB, compiled, mesh_of_four, program, small_piece

V5E = CHIPS["v5e"]
pytestmark = pytest.mark.usefixtures("unchecked")


def test_what_lives_meanwhile_and_is_no_argument_is_added():
    other = Trace(mesh_of_four()).rows((1024, 4096), "float32")  # 4 MB on a chip
    piece = small_piece(state={"a": other}, again=[other])
    found = figures_of(piece, compiled(piece), False, V5E)
    # The unread argument is on the chip all the same, though the compiler does not count it.
    assert found.resident == 8 * MB
    assert found.peak == (12 + 5 + 8 - 4) * MB + 8 * MB
    assert dict(found.memory) == {
        "state": 4 * MB,
        "other arguments": 16 * MB,
        "temporaries": 5 * MB,
        "outputs": 4 * MB,
    }
    assert sum(found.memory.values()) == found.peak


def test_what_is_held_and_given_counts_once():
    piece = small_piece()
    held = dataclasses.replace(piece, alive={"batch": piece.arguments[:3]})
    found = figures_of(held, compiled(held), False, V5E)
    assert found.resident == 4 * MB  # the unread one
    assert found.memory["batch"] == 12 * MB and found.memory["other arguments"] == 4 * MB


def test_arguments_that_a_program_does_not_read_are_seen():
    """On the CPU's compiler; which arguments are left out is JAX's doing."""
    found, _ = compile_piece(small_piece(), "cpu", fresh=True)
    assert found.read_arguments == (True, True, False, True)
    assert found.arguments == 12 * MB and found.aliased == 4 * MB


def test_nothing_is_an_argument_where_a_field_is_none():
    trace = Trace(mesh_of_four())
    rows = trace.rows((8,), "float32")
    inputs = {"a": rows, "b": None, "c": rows}
    trace.call("f", jax.jit(lambda x: x["a"] * 2), inputs, flops=Flops())
    found, _ = compile_piece(trace.pieces[0], "cpu", fresh=True)
    assert found.read_arguments == (True, False)


def test_seconds_and_bounds():
    piece = small_piece()
    found = figures_of(piece, compiled(piece), False, V5E)
    assert found.seconds == 1.0  # of 1.5e9 cycles
    assert found.compute_seconds == pytest.approx(2 * 2048**3 / 4 / 197e12)
    assert found.hbm_seconds == pytest.approx(20 * MB / 819e9)
    assert found.wire_seconds == pytest.approx((2 * 0.75e9 + 0.5e9) / 55e9)
    assert found.bound_by == "wire" and found.roofline_seconds == found.wire_seconds
    assert found.share_of_peak == pytest.approx(found.compute_seconds)
    written = found.to_dict()
    assert written["collectives"] == {"all-gather": {"count": 3, "gb": 2.0}}
    assert written["wire_gb"] == 2.0 and not written["not_understood"]


def test_a_loop_over_tokens_reads_parameters_and_caches_at_every_turn():
    piece = dataclasses.replace(small_piece(), tokens=100, cache_bytes=4.0 * 7 * MB)
    found = figures_of(piece, compiled(piece), False, V5E)
    assert found.hbm_seconds == pytest.approx((20 + 100 * (12 + 7)) * MB / 819e9)


def test_kernels_compute_what_is_masked_too():
    trace = Trace(mesh_of_four())
    rows, twice = trace.rows((8,), "float32"), jax.jit(lambda x: x * 2)
    flops = Flops(products=1.0, attention=2.0, masked=4.0)
    trace.call("f", twice, rows, flops=flops)
    trace.call("f", twice, rows, flops=flops, in_kernels=Flops(attention=1.0), passes=3)
    found = [(piece.name, piece.flops, piece.attention) for piece in trace.pieces]
    assert found == [("f", 3.0, 6.0), ("f_2", 9.0, 1.0)]


KERNELS = {  # kernels in a program, and the passes of attention that they are worth
    "none": ({}, 0.0),
    "a pass": ({"splash_mqa_fwd": 56}, 1.0),
    "two for each layer": ({"splash_mha_fwd_a": 28, "splash_mha_fwd_b": 28}, 1.0),
    "one for two tensors": ({"splash_mha_dkv": 28, "splash_mha_fwd_residuals": 56}, 2 + 2.5),
    "computed anew": (
        {"splash_mha_fwd_residuals": 56, "splash_mha_dq": 28, "splash_mha_dkv": 28},
        2 + 2.5,
    ),
    "nothing computed anew": ({"mha_fwd": 28, "mha_dq": 28, "mha_dkv": 28}, 1 + 2.5),
    "four microbatches of two kernels": (
        {"splash_a_fwd": 448, "splash_a_dq": 224, "splash_a_dkv": 224},
        2 + 2.5,
    ),
}


@pytest.mark.parametrize("case", KERNELS)
def test_kernels_take_the_time_of_their_attention(case):
    kernels, passes = KERNELS[case]
    piece = dataclasses.replace(small_piece(), attention=4 * 197e12)
    found = figures_of(piece, compiled(piece, program=program(kernels=kernels)), False, V5E)
    assert found.kernel_seconds == pytest.approx(passes / 0.5)
    assert found.seconds == pytest.approx(1.0 + passes / 0.5)


def test_kernels_of_another_kind_are_told():
    piece = dataclasses.replace(small_piece(), attention=1e15)
    unsure = program(kernels={"my_sort": 3}, unknown_loops=1, unknown_arrays=2)
    told = compiled(piece, program=unsure)
    found = figures_of(piece, told, False, V5E)
    assert found.kernel_seconds == 0.0
    assert found.to_dict()["not_understood"] == {
        "kernels": ["my_sort"],
        "unknown_loops": 1,
        "unknown_arrays": 2,
    }


@pytest.mark.parametrize("wanted", [30 * GIB, 0])
def test_what_would_not_compile_has_no_seconds(wanted):
    """The compiler says what it wanted in all, or what of temporaries."""
    piece = small_piece()
    temporaries = 0 if wanted else 20 * GIB
    nothing = dict.fromkeys(("arguments", "outputs", "aliased"), 0)
    told = compiled(
        piece,
        **nothing,
        program=None,
        refused="no",
        wanted=wanted,
        temporaries=temporaries,
        read_arguments=(True,) * 4,
    )
    found = figures_of(piece, told, False, V5E)
    assert found.peak == (wanted or 20 * GIB + 16 * MB)
    assert found.seconds is None and found.share_of_peak is None
    assert found.memory["temporaries"] == (wanted - 16 * MB if wanted else 20 * GIB)
    assert np.isclose(sum(found.memory.values()), found.peak)
    assert found.to_dict()["predicted_seconds"] is None
