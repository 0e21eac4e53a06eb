"""The real compiler of TPUs, on a machine without one: its figures, held against known ones."""

import importlib.metadata
import importlib.util
import json
import os
import subprocess
import sys

import pytest

from tests.parallel.test_mesh import TPU_ALONE
from tests.patience import LONG
from tests.planning.tpu_process import MICROBATCHES, PIECES, TOKENS, TOPOLOGIES

KINDS = list(TOPOLOGIES)
VOCABULARY = 152_064

# What the compiler made of each piece, with these versions. A change that means to make it
# otherwise writes here what it has become.
RECORDED_WITH = {"jax": "0.10.2", "libtpu": "0.0.42.1"}
# Peak of HBM on a chip and temporaries in GiB, and how often each collective runs.
#
# Weights are divided over three axes of the mesh and gathered over one at a time. A layer of the
# decoder has seven matrices and three biases, 24 gathers, and they are made once for each of two
# microbatches, forward and back together: with one layer nothing is gathered anew. The head is
# three more in an update, and ids of tokens are the rest. Reference and listener are one pass, with
# as many gathers of weights as either would have. Gradients go back the same way by
# reduce-scatters; what is added up whole is small, such as norms and losses. The embedding is
# divided by features on the way to rows and by rows on the way back, which are the all-to-alls. A
# rollout of 128 tokens runs 25 collectives for each of them: to embed it, to add up what heads and
# features make, and to draw from a divided vocabulary, which takes most of them and a few numbers a
# row each.
TABLE = """
kind piece              peak  temporaries all-gather all-reduce reduce-scatter all-to-all collective-permute
v5e  encode             1.480 0.002       19         2          1              0          0
v5e  rollout            1.481 0.002       1285       1155       0              384        384
v5e  reference_listener 3.417 2.286       64         1          0              9          0
v5e  update             4.308 3.176       58         14         48             11         10
v5p  encode             1.518 0.040       19         2          1              0          0
v5p  rollout            1.503 0.025       1285       1155       0              384        384
v5p  reference_listener 2.980 1.849       64         1          0              9          0
v5p  update             4.348 3.216       58         14         46             11         10
"""  # noqa: E501
COLUMNS, *ROWS = [line.split() for line in TABLE.strip().splitlines()]
COLLECTIVES = COLUMNS[4:]
RECORDED = [
    (kind, name, dict(zip(COLUMNS[2:], map(float, row), strict=True))) for kind, name, *row in ROWS
]
each_recorded = pytest.mark.parametrize(
    "kind, name, was", RECORDED, ids=[f"{name} on {kind}" for kind, name, _ in RECORDED]
)


@pytest.fixture(scope="module")
def found() -> dict:
    if importlib.util.find_spec("libtpu") is None:
        pytest.skip("libtpu is not installed: it alone compiles for TPUs")
    done = subprocess.run(
        [sys.executable, "-m", "tests.planning.tpu_process"],
        capture_output=True,
        text=True,
        timeout=LONG,
        env={name: x for name, x in os.environ.items() if name != "XLA_FLAGS"} | TPU_ALONE,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def piece_of(found: dict, kind: str, name: str) -> dict:
    """Figures of a piece."""
    [piece] = [x for x in found[kind]["plan"]["pieces"] if x["name"] == name]
    return piece


def versions() -> dict[str, str]:
    """Of what compiles here."""
    return {name: importlib.metadata.version(name) for name in RECORDED_WITH}


def same_compiler() -> bool:
    """Whether it is the one that the records are of."""
    return versions() == RECORDED_WITH


def changes(was: dict[str, float], now: dict[str, float], **tolerance: float) -> str:
    """What is no longer as recorded, in words; empty if all is."""
    changed = [
        f"{name} was {was[name]:g} and is {value:g}"
        for name, value in now.items()
        if value != pytest.approx(was[name], **tolerance)
    ]
    return f"{', '.join(changed)}; {versions()}" if changed else ""


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
    assert [x["name"] for x in plan["pieces"]] == [*PIECES]
    assert plan["fits"] and plan["partial"] and plan["mesh"]["tensor"] == 4
    for piece in plan["pieces"]:
        assert not piece["not_understood"] and not piece["refused"], piece
        assert piece["predicted_seconds"] > piece["flops_per_chip"] / 1e15
        assert 0 < piece["share_of_peak"] < 1
        parts = sum(piece["memory_gib"].values())  # but for what the compiler pads
        assert piece["hbm_gib_peak"] == pytest.approx(parts, abs=0.1)


@each_recorded
def test_memory_is_what_it_was(found, kind, name, was):
    """Within 2 %, or 5 MiB; with another compiler within 10 %, or 26 MiB."""
    piece, share = piece_of(found, kind, name), 0.02 if same_compiler() else 0.1
    now = {"peak": piece["hbm_gib_peak"], "temporaries": piece["temporaries_gib"]}
    changed = changes(was, now, rel=share, abs=share / 4)
    assert not changed, f"{name} on {kind}, GiB: {changed}"


@each_recorded
def test_collectives_are_as_many_as_they_were(found, kind, name, was):
    """Or a tenth more or fewer with another compiler."""
    made = piece_of(found, kind, name)["collectives"]
    now = {x: made.get(x, {"count": 0})["count"] for x in COLLECTIVES}
    assert {*made} <= {*COLLECTIVES}
    changed = changes(was, now, rel=0 if same_compiler() else 0.1, abs=0)
    assert not changed, f"{name} on {kind}, how many: {changed}"


@pytest.mark.parametrize("kind", KINDS)
def test_the_loop_over_tokens_counts_as_often_as_there_are_tokens(found, kind):
    rollout = piece_of(found, kind, "rollout")
    assert rollout["assumed_loops"] == 1
    assert not any(piece_of(found, kind, x)["assumed_loops"] for x in PIECES if x != "rollout")
    assert {*(x["times"] for x in found[kind]["for each token"])} == {TOKENS, TOKENS + 1}


@pytest.mark.parametrize("kind", KINDS)
def test_for_no_token_a_vocabulary_goes_from_chip_to_chip(found, kind):
    """Neither logits nor the head, the least of which are one completion's logits in bfloat16.

    A chip has 32 completions, whose logits are that many times as large, and whose hidden states,
    the largest that may be moved, are three quarters of it.
    """
    largest = max(found[kind]["for each token"], key=lambda x: x["size"])
    assert largest["size"] < 2 * VOCABULARY, (
        f"{kind} rollout: {largest['kind']} of {largest['size'] / 1e6:.1f} MB for every token"
    )


@pytest.mark.parametrize("kind", KINDS)
def test_kernels_run_as_often_as_there_are_layers(found, kind):
    """There is one, which runs for each microbatch; going back it is computed anew at most once."""
    encode, frozen, update = (
        piece_of(found, kind, name) for name in ("encode", "reference_listener", "update")
    )
    assert [*encode["kernels"].values()] == [1]
    assert [*frozen["kernels"].values()] == [2 * MICROBATCHES]  # there are two prompts
    backward = {x: n for x, n in update["kernels"].items() if "_dq_" in x or "_dkv_" in x}
    assert [*backward.values()] == [MICROBATCHES] * 2
    [forward] = [n for x, n in update["kernels"].items() if x not in backward]
    assert MICROBATCHES <= forward <= 2 * MICROBATCHES
    assert all(x["kernel_seconds"] > 0 for x in (encode, frozen, update))


def test_the_update_holds_what_the_step_before_it_left(found):
    update = piece_of(found, "v5e", "update")
    held = update["memory_gib"]
    # Two moments of every parameter in float32, and none of the tower.
    assert 1.7 < held["optimizer"] / held["parameters"] < 2.0
    assert held["frozen models"] == pytest.approx(held["parameters"] / 2, rel=0.01)
    assert update["aliased_gib"] > held["optimizer"]  # the new state lies where the old one was
    assert update["resident_gib"] > held["frozen models"] * 0.9
