"""Settings of the whole test run, and checkpoints that many tests share."""

import os
import tempfile

from tests import typechecking  # before anything of the package is imported
from tests.compiling import FAST

# Before JAX starts: four devices on any machine, and never an accelerator that happens to be there.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["XLA_FLAGS"] = (
    f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=4 {FAST}"
)
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Asked over gRPC with TLS, which `storage` does not speak; gcsfs looks when it is imported.
os.environ["GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT"] = "false"
# What one test compiles, others of the test run need not, in whichever process.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    COMPILED = tempfile.TemporaryDirectory(prefix="lrt_jax_compiled_")  # ends with this process
    os.environ["JAX_COMPILATION_CACHE_DIR"] = COMPILED.name
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.2"  # what takes less is not worth it
# Digests of the tests' files are of no use to anybody else.
os.environ["XDG_CACHE_HOME"] = os.environ["JAX_COMPILATION_CACHE_DIR"]

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
from absl import flags

from lrt_jax.models import VisionLanguageModel, load_model
from tests import bucket_server
from tests.loopback import serving
from tests.models.hf_reference import SHAPES, Shape, make_checkpoint
from tests.training.small_run import write_hpdv2

flags.FLAGS.mark_as_parsed()  # Grain's worker processes read absl flags

# Files and folders whose tests start processes, take steps or compile a lot: `-m "not slow"` leaves
# them out.
SLOW = (
    "algorithms/test_pair_weights.py",
    "algorithms/test_sft.py",
    "assets",
    "cli",
    "data/input/test_pipeline.py",
    "data/input/test_worker_processes.py",
    "data/test_scenes.py",
    "launch",
    "models/test_group.py",
    "models/test_sharing.py",
    "parallel",
    "planning/test_pieces.py",
    "planning/test_same_calls.py",
    "planning/test_tpu.py",
    "rl/test_learner.py",
    "rl/test_listener.py",
    "rl/test_rollout.py",
    "serving/test_serve.py",
    "storage/test_disk.py",
    "test_bad_input.py",
    "test_benchmarks.py",
    "test_contributing.py",
    "test_fuzz.py",
    "test_interruptions.py",
    "test_mutants.py",
    "training",
)

# Files that take a minute or more, the longest first: the test run begins with them, so that none
# of them is left for one worker at its end.
LONG_FILES = (
    "training/test_learning.py",
    "test_interruptions.py",
    "training/test_loop.py",
    "planning/test_tpu.py",
    "training/test_several_processes.py",
    "cli/test_commands.py",
    "training/test_bucket_run.py",
    "parallel/test_same_step.py",
    "launch/test_life.py",
    "parallel/test_compiled.py",
    "inference/test_reward_model.py",
    "rl/test_learner.py",
    "training/test_kept_programs.py",
    "training/test_shared_checkpoints.py",
    "planning/test_command.py",
    "planning/test_same_calls.py",
    "test_bad_input.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks what is slow, by where it is, and puts long files first."""
    tests = Path(__file__).parent
    places = [tests / name for name in SLOW]
    turns = {tests / name: turn for turn, name in enumerate(LONG_FILES)}
    for item in items:
        if any(item.path.is_relative_to(place) for place in places):
            item.add_marker(pytest.mark.slow)
    items.sort(key=lambda item: turns.get(item.path, len(turns)))


@pytest.fixture(scope="session", autouse=True)
def children_without_torch() -> None:
    """Here, and not above: the test run's own workers do need it."""
    paths = [str(Path(__file__).parent / "without_torch"), os.environ.get("PYTHONPATH", "")]
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, paths))


@pytest.fixture
def unchecked() -> Iterator[None]:
    """No declared type is checked, in tests of what the code itself says of wrong values."""
    with typechecking.unchecked():
        yield


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder with `hpd_gallery` and `imagereward_test`: real images, captions and votes."""
    folder = os.environ.get("LRT_TEST_DATA")
    if not folder:
        pytest.skip("LRT_TEST_DATA is not set: it names the folder of real preference data")
    return Path(folder)


@pytest.fixture(scope="session")
def storage_server() -> Iterator[bucket_server.Storage]:
    """Where this process finds all buckets: tensorstore looks for the address only once."""
    with serving(bucket_server.Storage()) as server, pytest.MonkeyPatch.context() as patch:
        for name, value in server.environment.items():
            patch.setenv(name, value)
        patch.setitem(fsspec.config.conf, "gcs", {"token": "anon"})
        yield server


@pytest.fixture
def things(storage_server) -> bucket_server.Storage:
    """Storage with the empty bucket `things`."""
    storage_server.hold("things")
    return storage_server


@dataclasses.dataclass(frozen=True)
class Pair:
    """One checkpoint, as transformers' model and as ours."""

    shape: Shape
    folder: Path
    hf: object
    model: VisionLanguageModel
    params: dict


@pytest.fixture(scope="session", params=SHAPES)
def both(request, tmp_path_factory) -> Pair:
    """Each of the three shapes, in the hub's layout."""
    return _make(request.param, tmp_path_factory)


@pytest.fixture(scope="session")
def one(tmp_path_factory) -> Pair:
    """One shape, for tests that do not depend on it."""
    return _make("tied", tmp_path_factory)


def _make(name: str, tmp_path_factory) -> Pair:
    folder = tmp_path_factory.mktemp(name)
    hf = make_checkpoint(folder, SHAPES[name])
    return Pair(SHAPES[name], folder, hf, *load_model(folder))


@pytest.fixture(scope="session")
def data(tmp_path_factory) -> Path:
    """Self-made pairs in HPDv2's training layout."""
    return write_hpdv2(tmp_path_factory.mktemp("hpdv2"))
