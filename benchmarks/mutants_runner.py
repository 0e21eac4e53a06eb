"""Runs tests in forks of a process that has imported the libraries: for `benchmarks.mutants`.

This module imports nothing of the project: each fork imports it anew, from a copy of the checkout.
"""

import builtins
import contextlib
import dataclasses
import importlib
import json
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path

LIBRARIES = (
    *("jax", "jax.numpy", "flax.linen", "optax", "orbax.checkpoint", "grain.python", "scipy.stats"),
    *("tensorflow_datasets", "torch", "transformers", "transformers.models.qwen2_5_vl", "pytest"),
    *("matplotlib.figure", "pyarrow.parquet", "ml_collections", "safetensors.numpy", "fsspec"),
    *("huggingface_hub", "tensorboardX", "PIL.Image"),
)
OURS = ("lrt_jax", "tests", "benchmarks")
PASSED, FAILED, TIMED_OUT = "passed", "failed", "timed out"


@dataclasses.dataclass(frozen=True)
class TestRun:
    """What came of some tests.

    Attributes:
      outcome: `PASSED`; `FAILED` at a test, or before one began; or `TIMED_OUT`.
      failed: name of the first test that failed, or what pytest's exit status was.
      seconds: by test.
      reached: first lines of functions that each test called, by file, where the code of these
        files is `mutants_operators.instrumented`.
    """

    outcome: str
    failed: str = ""
    seconds: dict[str, float] = dataclasses.field(default_factory=dict)
    reached: dict[str, dict[str, list[int]]] = dataclasses.field(default_factory=dict)


class Runner:
    """A process with the libraries imported, which is forked for every run of tests.

    Args:
      tree: copy of the checkout, whose tests are run.
      folder: for logs and compiled programs.
    """

    def __init__(self, tree: Path, folder: Path):
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(folder / "compiled"))
        os.environ |= {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(tree), "HF_HUB_OFFLINE": "1"}
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, str(tree), str(folder)))
        self._process.start()

    def run(self, tests: Sequence[str], seconds: float, stop: bool = True) -> TestRun:
        """Runs tests in the order given.

        Args:
          tests: files, or names of tests.
          seconds: after which they are ended.
          stop: at the first failure.
        """
        self._connection.send((list(tests), seconds, stop))
        return self._connection.recv()

    def end(self) -> None:
        """Ends the process."""
        with contextlib.suppress(BrokenPipeError):
            self._connection.send(None)
        self._process.join(10.0)
        self._process.kill()


def _serve(connection: Connection, tree: str, folder: str) -> None:
    for name in LIBRARIES:
        importlib.import_module(name)
    report = Path(folder) / "report.json"
    while (order := connection.recv()) is not None:
        report.unlink(missing_ok=True)
        child = os.fork()
        if child == 0:
            _run_and_exit(tree, folder, report, *order)
        connection.send(_wait(child, report, order[1]))


def _wait(child: int, report: Path, seconds: float) -> TestRun:
    until = time.monotonic() + seconds
    while not (ended := os.waitpid(child, os.WNOHANG))[0]:
        if time.monotonic() > until:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child, signal.SIGKILL)  # with what the tests have started
            os.waitpid(child, 0)
            return TestRun(TIMED_OUT)
        time.sleep(0.05)
    status = os.waitstatus_to_exitcode(ended[1])
    told = json.loads(report.read_text()) if report.is_file() else {}
    outcome = PASSED if status == 0 else FAILED
    failed = told.pop("failed", "") or (f"exit status {status}" if status else "")
    return TestRun(outcome, failed, **told)


def _run_and_exit(
    tree: str, folder: str, report: Path, tests: list[str], _: float, stop: bool
) -> None:
    """The child: never comes back."""
    status = 70
    try:
        os.setsid()
        out = os.open(f"{folder}/tests.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for descriptor in (1, 2):
            os.dup2(out, descriptor)
        for name in [x for x in sys.modules if x.partition(".")[0] in OURS]:
            del sys.modules[name]
        os.chdir(tree)
        sys.path.insert(0, tree)
        sys.dont_write_bytecode = True
        import pytest

        plugin = _Plugin()
        options = ["-q", "--tb=line", "-p", "no:cacheprovider", *(["-x"] if stop else [])]
        status = int(pytest.main([*options, *tests], plugins=[plugin]))
        report.write_text(json.dumps(plugin.told))
    finally:
        os._exit(status)


class _Plugin:
    """Notes the first failure, the time of each test, and the functions that it calls."""

    def __init__(self):
        self._test = ""
        self.told = {"failed": "", "seconds": {}, "reached": {}}
        builtins.reached = self._reached  # what instrumented code calls

    def _reached(self, place: str) -> None:
        file, _, line = place.rpartition(":")
        if self._test:
            lines = self.told["reached"].setdefault(self._test, {}).setdefault(file, [])
            if int(line) not in lines:
                lines.append(int(line))

    def pytest_runtest_logstart(self, nodeid, location):
        self._test = nodeid

    def pytest_runtest_logreport(self, report):
        spent = self.told["seconds"]
        spent[report.nodeid] = spent.get(report.nodeid, 0.0) + report.duration
        if report.failed and not self.told["failed"]:
            self.told["failed"] = report.nodeid

    def pytest_collectreport(self, report):
        if report.failed and not self.told["failed"]:
            self.told["failed"] = f"collecting {report.nodeid}"
