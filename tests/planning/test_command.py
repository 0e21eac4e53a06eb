"""`python -m lrt_jax.plan` as a person types it, for the built-in model, which compiles soon."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest
from absl import flags

from lrt_jax import plan as command
from lrt_jax.planning import topology
from tests.parallel.test_mesh import TPU_ALONE
from tests.patience import LONG

ROOT = Path(__file__).parents[2]
FIELDS = (  # that scripts rely on
    *("topology", "fits", "hbm_gib", "hbm_gib_peak", "step_seconds", "flops_per_chip", "pieces"),
)
OF_A_PIECE = (
    *("name", "compile_seconds", "hbm_gib_peak", "flops", "roofline_seconds", "bound_by"),
    "collectives",
)
TINY = (
    *("--config=configs/imagereward.py:tiny", "--topology=v5e:2x2"),
    *("--config.data.prompt_tokens=224", "--config.data.judge_tokens=224"),
    "--config.eval.held_out_listener=None",
)
SFT = ("--config=configs/scenes.py:sft", *TINY[1:])

needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed"
)


def plan(*arguments: str, cache: Path) -> subprocess.CompletedProcess[str]:
    environment = {name: x for name, x in os.environ.items() if name != "XLA_FLAGS"}
    return subprocess.run(
        [sys.executable, "-m", "lrt_jax.plan", *arguments],
        capture_output=True,
        text=True,
        timeout=LONG,
        cwd=ROOT,
        env=environment | TPU_ALONE | {"XDG_CACHE_HOME": str(cache)},
    )


@needs_libtpu
def test_a_plan_for_programs_and_again_for_people(tmp_path):
    run = plan(*TINY, "--pieces=copy,encode", "--json", cache=tmp_path)
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout)  # and nothing else
    assert found.keys() >= {*FIELDS}
    assert all(piece.keys() >= {*OF_A_PIECE} for piece in found["pieces"])
    assert found["topology"] == "v5e:2x2" and found["fits"] and found["partial"]
    assert found["cost"] is None and found["step_seconds"] is None  # of two pieces alone
    assert "1/2 copy: compiled in" in run.stderr

    again = plan(*TINY, "--pieces=copy,encode", cache=tmp_path)
    assert again.returncode == 0, again.stderr
    assert "2/2 encode: known" in again.stdout and ": fits\n" in again.stdout
    assert "note: partial, without rollout" in again.stdout


@needs_libtpu
def test_supervised_learning_and_what_does_not_fit(tmp_path):
    """More pairs at a time than chips hold: an answer, with what to change, and exit code 1."""
    many = ("--config.max_completion_length=1024", "--config.batch_size=4096")
    run = plan(*SFT, *many, "--pieces=update", cache=tmp_path)
    assert run.returncode == 1, run.stdout + run.stderr
    assert "at update, of 14.2 (15.75 but for a tenth): does not fit" in run.stdout
    assert "  change: update: loss.microbatches=" in run.stdout


@needs_libtpu
def test_an_error_is_told_in_a_line(tmp_path):
    small = ("--config.batch_size=72", "--config.eval.batch_size=72")
    run = plan(TINY[0], *TINY[2:], *small, "--topology=v5e:3x3", cache=tmp_path)
    assert run.returncode == 1
    assert "libtpu does not know it" in run.stderr and "Traceback" not in run.stderr


ERRORS = {
    "no such chip": (
        (*TINY, "--topology=v9:1x1"),
        "no such chip is known; there are, among others",
    ),
    "sizes of the data": (TINY[:2], "measured from the data, which a plan does not read; give --c"),
    "no such piece": (
        (*TINY, "--pieces=updates"),
        "--pieces: no updates here; there are copy, encode, rollout",
    ),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors_before_anything_is_compiled(name, monkeypatch, unchecked):
    """Told by the command itself, here without a process of its own and without libtpu."""
    arguments, told = ERRORS[name]
    monkeypatch.setattr(topology, "compile_for_tpus", lambda: None)
    monkeypatch.setattr(topology.Topology, "devices", lambda self: jax.devices()[: self.chips])
    monkeypatch.setattr(sys, "argv", ["plan", *arguments])
    monkeypatch.chdir(ROOT)
    values = flags.FlagValues()
    command.define_flags(values)
    values(sys.argv)
    with pytest.raises(ValueError, match=told):
        command.main(values)


def test_flags_that_cannot_be(tmp_path):
    run = plan("--config=configs/imagereward.py:tiny", cache=tmp_path)
    assert run.returncode == 1 and "--topology must be given" in run.stderr
