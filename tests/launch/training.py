"""Stands for training on a worker: steps, checkpoints in the bucket, an end as told.

`training.json` of the stand-in's folder says how: exit codes of a worker's first, second, ... start
(`exits`, by worker), and the step from which a worker's first start waits to be stopped
(`waits_at`). SIGTERM has it save, and end with 143.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

STEPS = 4


def main(arguments: list[str]) -> int:
    """One start of training; returns its exit code."""
    here, who = Path(os.environ["STAND_IN"]), os.environ["WHO"]
    plan = here / "training.json"
    plan = json.loads(plan.read_text()) if plan.exists() else {}
    starts = here / f"starts-{who}"
    starts.write_text((starts.read_text() if starts.exists() else "") + " ".join(arguments) + "\n")
    exits = plan.get("exits", {}).get(who, [])
    number = len(starts.read_text().splitlines())
    if number <= len(exits) and exits[number - 1]:
        print(f"error: bad image on {who}", flush=True)
        return exits[number - 1]
    [address] = [x.partition("=")[2] for x in arguments if x.startswith("--workdir=gs://")]
    workdir = here / "bucket" / address.removeprefix("gs://")
    workdir.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, lambda *_: _save_and_end(workdir / f"saved-by-{who}"))
    waits_at = plan.get("waits_at", STEPS + 1) if number == 1 else STEPS + 1
    saved = workdir / "checkpoints/step"
    # Workers start at their own time: on its first start none takes another's step for its own.
    began = int(saved.read_text()) if number > 1 and saved.exists() else 0
    return _steps(workdir, saved, began, waits_at, first=who in ("run-0", "run-0-0"))


def _save_and_end(file: Path) -> None:
    time.sleep(0.5)  # a checkpoint takes its time
    file.touch()
    sys.exit(143)


def _steps(workdir: Path, saved: Path, began: int, waits_at: int, first: bool) -> int:
    saved.parent.mkdir(parents=True, exist_ok=True)
    for step in range(began + 1, STEPS + 1):
        print(f"step {step}/{STEPS}, began at {began}", flush=True)
        if first:
            saved.with_suffix(".new").write_text(str(step))
            saved.with_suffix(".new").replace(saved)
        while step >= waits_at:
            time.sleep(0.05)
    if first:
        (workdir / "export").mkdir(exist_ok=True)
        (workdir / "export/config.json").write_text("{}")
        (workdir / "results.json").write_text(json.dumps({"steps": STEPS, "began": began}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
