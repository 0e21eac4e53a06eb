"""Topologies by name."""

import pytest

from lrt_jax.planning import topology
from lrt_jax.planning.topology import CHIPS, KNOWN, Topology


@pytest.mark.parametrize(
    ("name", "slices", "chips"), [("v5e:8x8", 1, 64), ("v5p:4x4x4", 1, 64), ("v6e:2x4", 3, 24)]
)
def test_chips(name, slices, chips):
    found = Topology(name, slices)
    assert found.chips == chips and found.chip is CHIPS[found.kind]


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("v9:2x2", "no such chip is known; there are, among others, v4:2x2x1"),
        ("v7x:4x4x4", "its figures are not known here"),
        ("ironwood:2x2x1", "its figures are not known here"),
        ("v5e", "'' is no shape"),
        ("v5e:8", "'8' is no shape"),
        ("v5e:8xx8", "'8xx8' is no shape"),
        ("v5e:0x8", "'0x8' is no shape"),
    ],
)
def test_names_of_nothing(name, told):
    with pytest.raises(ValueError, match=f"--topology={name}: .*") as caught:
        Topology(name)
    assert told in str(caught.value)


def test_every_kind_of_chip_has_slices():
    assert KNOWN.keys() == CHIPS.keys()
    assert all(Topology(f"{kind}:{shape}").chips for kind in KNOWN for shape in KNOWN[kind])


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (
            RuntimeError('ABORTED: accessing libtpu multi-process lockfile. Run "$ sudo rm'),
            "another process uses libtpu, .*/tmp/libtpu_lockfile",
        ),
        (RuntimeError("Failed to open libtpu.so"), "libtpu cannot be used .*pip install libtpu"),
        (ImportError("no module"), "pip install libtpu"),
        (RuntimeError("Topology layout v5e:3x3 is not divisible"), "libtpu does not know it"),
    ],
)
def test_why_there_are_no_devices(monkeypatch, error, told):
    from jax.experimental import topologies

    def fail(**_):
        raise error

    monkeypatch.setattr(topologies, "get_topology_desc", fail)
    with pytest.raises(ValueError, match=told):
        topology.Topology("v5e:2x4").devices()
