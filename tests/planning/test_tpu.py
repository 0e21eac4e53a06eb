"""The real compiler of TPUs, on a machine without one: its figures, held against known ones."""

import importlib.util
import json
import os
import subprocess
import sys

import pytest

from tests.parallel.test_mesh import TPU_ALONE
from tests.planning.tpu_process import PIECES, TOPOLOGIES

KINDS = list(TOPOLOGIES)


@pytest.fixture(scope="module")
def found() -> dict:
    if importlib.util.find_spec("libtpu") is None:
        pytest.skip("libtpu is not installed: it alone compiles for TPUs")
    done = subprocess.run(
        [sys.executable, "-m", "tests.planning.tpu_process"],
        capture_output=True,
        text=True,
        timeout=280,
        env={name: x for name, x in os.environ.items() if name != "XLA_FLAGS"} | TPU_ALONE,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("kind", KINDS)
def test_a_large_product_takes_about_as_long_as_at_peak(found, kind):
    product = found[kind]["product"]
    assert 0.85 < product["share_of_peak"] < 1.15
    assert product["bound_by"] == "compute" and not product["not_understood"]
    if kind == "v5e":  # 1.1 TFLOP at 197 a second
        assert product["roofline_seconds"] == pytest.approx(5.58e-3, rel=0.01)


@pytest.mark.parametrize("kind", KINDS)
def test_products_in_a_loop_take_as_long_as_they_are_many(found, kind):
    five, ten = (
        found[kind][name]["predicted_seconds"] for name in ("five products", "ten products")
    )
    assert 1.95 < ten / five < 2.05


@pytest.mark.parametrize("kind", KINDS)
def test_memory_of_a_product_is_that_of_its_matrices(found, kind):
    product = found[kind]["five products"]
    assert product["arguments_gib"] == pytest.approx(6 * 2 * 8192**2 / 2**30, abs=1e-3)
    assert product["outputs_gib"] == pytest.approx(2 * 8192**2 / 2**30, abs=1e-3)


def test_what_no_chip_holds_is_refused_with_its_size(found):
    refused = found["refused"]
    assert "RESOURCE_EXHAUSTED" in refused["refused"]
    assert refused["hbm_gib_peak"] > 90 and refused["predicted_seconds"] is None


@pytest.mark.parametrize("kind", KINDS)
def test_every_piece_is_understood(found, kind):
    plan = found[kind]["plan"]
    assert [x["name"] for x in plan["pieces"]] == [*PIECES[kind]]
    assert plan["fits"] and plan["partial"] and plan["mesh"]["tensor"] == 4
    for piece in plan["pieces"]:
        assert not piece["not_understood"] and not piece["refused"], piece
        assert piece["predicted_seconds"] > piece["flops_per_chip"] / 1e15
        assert 0 < piece["share_of_peak"] < 1
        parts = sum(piece["memory_gib"].values())  # but for what the compiler pads
        assert piece["hbm_gib_peak"] == pytest.approx(parts, abs=0.1)


@pytest.mark.parametrize("kind", KINDS)
def test_the_loop_over_tokens_counts_as_often_as_there_are_tokens(found, kind):
    """Each token's logits are gathered or its hidden states added up, at least once a token."""
    pieces = {x["name"]: x for x in found[kind]["plan"]["pieces"]}
    rollout = pieces["rollout"]
    assert rollout["assumed_loops"] == 1
    assert sum(x["count"] for x in rollout["collectives"].values()) >= 128
    assert not any(x["assumed_loops"] for name, x in pieces.items() if name != "rollout")


def test_kernels_run_as_often_as_there_are_layers(found):
    """There is one; going back it is computed anew at most once."""
    pieces = {x["name"]: x for x in found["v5e"]["plan"]["pieces"]}
    assert {*pieces["listener"]["kernels"].values()} == {1}
    backward = {x: n for x, n in pieces["update"]["kernels"].items() if "_dq_" in x or "_dkv_" in x}
    assert {*backward.values()} == {1} and len(backward) < len(pieces["update"]["kernels"])
    assert all(pieces[name]["kernel_seconds"] > 0 for name in ("encode", "listener", "update"))


def test_the_update_holds_what_the_step_before_it_left(found):
    [update] = [x for x in found["v5e"]["plan"]["pieces"] if x["name"] == "update"]
    held = update["memory_gib"]
    # Two moments of every parameter in float32, and none of the tower.
    assert 1.7 < held["optimizer"] / held["parameters"] < 2.0
    assert held["frozen models"] == pytest.approx(held["parameters"] / 2, rel=0.01)
    assert update["aliased_gib"] > held["optimizer"]  # the new state lies where the old one was
    assert update["resident_gib"] > held["frozen models"] * 0.9
