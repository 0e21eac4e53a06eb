"""The benchmarks run; what they measure is not tested."""

import json
import os
import subprocess
import sys
from pathlib import Path


def test_grpo_step_writes_its_stages(tmp_path):
    done = subprocess.run(
        [
            *(sys.executable, "-m", "benchmarks.grpo_step"),
            *("--prompts=2", "--group=2", "--completion=6", "--image_size=112", "--steps=1"),
            f"--json={tmp_path / 'out.json'}",
        ],
        capture_output=True,
        text=True,
        timeout=240,
        cwd=Path(__file__).parents[1],
        env={k: v for k, v in os.environ.items() if k != "XLA_FLAGS"},
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads((tmp_path / "out.json").read_text())
    stages = [figures[f"{stage}_s"] for stage in ("rollout", "listener", "update")]
    assert figures["step_s"] >= max(stages) > 0
    assert figures["completion_tokens"] == 2 * 2 * 6 and figures["compilations"] == 0
