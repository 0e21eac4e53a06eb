"""A run that is killed, stopped, or out of space goes on as if nothing had been: the short version
of `benchmarks/interruptions.py`."""

import signal

import pytest

from benchmarks.interruptions import Interruption, differences, launch, run_job
from tests.compiling import FAST
from tests.storage.small_disk import mounted

ENVIRONMENT = {"XLA_FLAGS": FAST}
SETTINGS = {"loss.num_iterations": 2, "loss.microbatches": 2, "data.workers": 2}


@pytest.fixture(scope="module", autouse=True)
def one_device():
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ENVIRONMENT.items():
            patch.setenv(name, value)
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("interruptions")


@pytest.fixture(scope="module")
def alone(folder, one_device):
    """Workdir of the run that nothing happens to."""
    run_job(folder / "alone", SETTINGS, folder / "compiled")
    return folder / "alone"


def test_interruptions_change_no_bit(alone, folder):
    plan = [
        Interruption(signal.SIGKILL, None),
        Interruption(signal.SIGTERM, 7.0),
        Interruption(signal.SIGINT, None),
    ]
    met = run_job(folder / "interrupted", SETTINGS, folder / "compiled", plan)
    assert all("done before" not in str(m) for m in met)
    assert "writing" in met[0].what and "writing" in met[2].what
    assert differences(alone, folder / "interrupted") == []
    (folder / "interrupted" / "export" / "model.safetensors").write_bytes(b"")
    assert differences(alone, folder / "interrupted") == ["export"]


def test_a_full_disk_is_told_and_the_run_goes_on_with_more_space(alone, folder, tmp_path):
    with mounted(tmp_path / "disk", "9m") as disk:
        full = launch(disk.folder / "run", SETTINGS, folder / "compiled")
        said = full.communicate()[1]
        assert full.returncode == 1
        assert "error: [Errno 28] No space left on device for 7.1 MB" in said
        assert "make space, then give the same command again" in said
        disk.remount("size=64m")
        run_job(disk.folder / "run", SETTINGS, folder / "compiled")
        assert differences(alone, disk.folder / "run") == []
