"""What workers and the container install is what the package asks for, and one Python."""

import re

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.launch.conftest import ROOT


def pins() -> dict[str, str]:
    """Version by name."""
    lines = (ROOT / "launch/requirements.txt").read_text().splitlines()
    return dict(line.split("==") for line in lines if line and line[0] not in " #")


def wanted() -> list[Requirement]:
    """What setup.py asks for, on a TPU VM."""
    text = (ROOT / "setup.py").read_text()
    [block] = re.findall(r"install_requires=\[(.*?)\n    \]", text, re.DOTALL)
    return [Requirement(re.sub(";.*", "", x)) for x in re.findall(r'"(.+)"', block)]


def test_everything_is_pinned_to_a_version_that_fits():
    pinned = pins()
    assert len(wanted()) > 20
    for requirement in wanted():
        version = pinned[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version), requirement
    assert "libtpu" in pinned and "gcsfs" in pinned
    assert "torch" not in pinned, "gigabytes that no worker needs"


def test_one_python():
    [settings] = re.findall(
        r'PYTHON_VERSION:=([\d.]+)\}"', (ROOT / "launch/settings.sh").read_text()
    )
    [worker] = re.findall(r"PYTHON_VERSION:=([\d.]+)\}", (ROOT / "launch/worker.sh").read_text())
    [image] = re.findall(r"FROM python:([\d.]+)-", (ROOT / "Dockerfile").read_text())
    assert settings == worker == image


def test_what_the_container_copies_is_there():
    copied = re.findall(r"^COPY (.+) \S+$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert copied
    for name in " ".join(copied).split():
        assert (ROOT / name).exists(), name
