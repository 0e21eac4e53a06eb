"""Meshes: on TPU topologies, which libtpu describes without a TPU, and on devices of our own."""

import dataclasses
import importlib.util
import json
import logging
import math
import os
import subprocess
import sys

import jax
import pytest

from lrt_jax.parallel.mesh import make_mesh
from tests.patience import LONG

TPU_ALONE = {  # the TPU compiler without a TPU, nor a search for one
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5p-8",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # else a lock file keeps out a second process
}
CASES = {  # topology of a slice, slices, chips (None for all), axes
    "half an axis": ("v5e:8x8", 1, None, {"fsdp": 16, "tensor": 4}),
    "attention apart": ("v5e:8x8", 1, None, {"tensor": 4, "attn_dp": 2}),
    "512 chips": ("v5p:8x8x8", 1, None, {"fsdp": 128, "tensor": 4}),
    "two slices": ("v5e:4x4", 2, None, {"data": 2, "tensor": 2}),
    "more data than slices": ("v5e:4x4", 2, None, {"data": 4, "tensor": 4}),
    "data inside a slice": ("v5e:4x4", 2, None, {"data": 1}),
    "a part of the chips": ("v5e:8x8", 1, 10, {"fsdp": 5, "tensor": 2}),
}


@pytest.fixture(scope="module")
def described() -> dict[str, dict]:
    """What a process with libtpu says of each case."""
    if importlib.util.find_spec("libtpu") is None:
        pytest.skip("libtpu is not installed: it alone knows how the chips are linked")
    done = subprocess.run(
        [sys.executable, "-m", "tests.parallel.tpu_meshes", json.dumps([*CASES.values()])],
        capture_output=True,
        text=True,
        timeout=LONG,
        env=os.environ | TPU_ALONE,
    )
    assert done.returncode == 0, done.stderr
    return dict(zip(CASES, json.loads(done.stdout), strict=True))


@pytest.mark.parametrize(
    ("case", "shape"),
    [
        ("half an axis", [1, 16, 1, 4]),
        ("attention apart", [1, 8, 2, 4]),
        ("512 chips", [1, 128, 1, 4]),
    ],
)
def test_tensor_takes_part_of_an_axis_of_the_torus(described, case, shape):
    mesh = described[case]
    assert mesh["shape"] == shape and mesh["devices"] == math.prod(shape)
    assert mesh["widest"] <= 3 and not mesh["told"]  # four chips in a row, or in a square


@pytest.mark.parametrize(
    ("case", "slices"),
    [("two slices", [[0], [1]]), ("more data than slices", [[0], [0], [1], [1]])],
)
def test_data_alone_crosses_slices(described, case, slices):
    mesh = described[case]
    assert mesh["slices_of_data"] == slices
    assert mesh["devices"] == 32 and not mesh["told"]


def test_data_that_slices_do_not_divide_names_both(described):
    assert "mesh.data=1 is no multiple of the 2 slices" in described["data inside a slice"]["error"]


def test_a_plain_order_is_told(described):
    """Ten chips of 8 x 8 are no box."""
    mesh = described["a part of the chips"]
    assert mesh["shape"] == [1, 5, 1, 2] and mesh["devices"] == 10
    assert (
        "data=1 x fsdp=5 x attn_dp=1 x tensor=2 is not laid out along the links" in mesh["told"][0]
    )


# ---------------------------------------------------------------------------- devices of our own


@dataclasses.dataclass(frozen=True)
class Chip:
    """What a mesh asks of a device."""

    id: int
    slice_index: int
    platform: str = "tpu"
    device_kind: str = "TPU v5p"
    process_index: int = 0
    core_on_chip: int = 0
    coords: tuple[int, int, int] = (0, 0, 0)  # all in one place: no torus that JAX could know


def chips(*slices: int, platform: str = "tpu") -> list[Chip]:
    return [Chip(i, number, platform) for i, number in enumerate(slices)]


def test_slices_of_different_sizes():
    with pytest.raises(ValueError, match="slices of 3 and 5 devices"):
        make_mesh(2, 4, devices=chips(0, 0, 0, 1, 1, 1, 1, 1))


def test_slices_must_divide_data():
    with pytest.raises(ValueError, match=r"mesh.data=3 is no multiple of the 2 slices"):
        make_mesh(3, 2, devices=chips(0, 0, 0, 1, 1, 1))


def test_the_plain_order_keeps_slices_together(caplog):
    with caplog.at_level(logging.WARNING):
        mesh = make_mesh(2, 2, devices=chips(0, 1, 0, 1))
    assert [[chip.slice_index for chip in rank.flat] for rank in mesh.devices] == [[0, 0], [1, 1]]
    assert "not laid out along the links between the 4 devices" in caplog.text


def test_hosts_of_other_platforms_are_no_slices(caplog):
    assert make_mesh(1, 4, devices=chips(0, 0, 1, 1, platform="gpu")).shape["fsdp"] == 4
    assert not caplog.text


def test_sizes_must_multiply_to_the_devices():
    with pytest.raises(
        ValueError, match="data=1 x fsdp=3 x attn_dp=1 x tensor=1 needs 3 devices, .* are 4"
    ):
        make_mesh(fsdp=3)
    assert make_mesh(tensor=2).shape == {"data": 1, "fsdp": 2, "attn_dp": 1, "tensor": 2}
    assert list(make_mesh().devices.flat) == jax.devices()
