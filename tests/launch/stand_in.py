"""A stand-in for `gcloud`: a small cloud in a folder, which records calls and fails as it is told.

The folder, named by STAND_IN, holds `cloud.json` (the request, its nodes, and what shall go wrong),
`calls.jsonl`, `bucket/` for Cloud Storage, and a home for every worker; while it has a file
`off-line`, no call is answered. A command that is sent over
ssh really runs, in that home and with the programs of `bin/` first; a node that is taken away loses
its home and its processes.
"""

import contextlib
import fcntl
import json
import os
import re
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import NoReturn

HERE = Path(os.environ["STAND_IN"])
NOTHING = {
    "state": "ABSENT",  # of the request
    "coming": [],  # states that the request will still pass through
    "nodes": [],
    "workers": 2,  # of a node
    "states": ["ACTIVE"],  # that a new request passes through, asked once for each
    "later_states": [],  # the same of all requests after the first, if they differ
    "answers": {},  # to questions, by words of the command
    # What shall fail: words of the command after "$ ", times, code, what is said, seconds before.
    "fail": [],
    "lost": [],  # words of the commands that are done, but whose answer is lost
    "taken_at_step": 0,  # checkpoint at which the nodes are taken away, once
}
QUESTIONS = {
    "auth list": "me@example.com",
    "billing projects describe": "True",
    "services list": "tpu.googleapis.com",
    "accelerator-types list": "v5p-16\nv5litepod-8",
    "quotas info describe": "us-east5-a,64",
    "buckets describe": "US-EAST5",
    "config get": "my-project",
}


@contextlib.contextmanager
def cloud():
    """The state of the cloud, read and written by one call at a time."""
    with open(HERE / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        path = HERE / "cloud.json"
        state = NOTHING | (json.loads(path.read_text()) if path.exists() else {})
        yield state
        path.with_suffix(".new").write_text(json.dumps(state, indent=1))
        path.with_suffix(".new").replace(path)


def main(arguments: list[str]) -> int:
    """Answers one call; returns its exit code."""
    line = " ".join(arguments)
    with cloud() as state:
        with open(HERE / "calls.jsonl", "a") as calls:
            calls.write(json.dumps(arguments) + "\n")
        failure = _failure(state, f"$ {line}")
    if (HERE / "off-line").exists():
        return _no("no route")
    if failure:
        time.sleep(failure["after"])
        print(failure["says"], file=sys.stderr)
        return failure["code"]
    with cloud() as state:
        for words, answer in (QUESTIONS | state["answers"]).items():
            if words in line:
                print(answer)
                return 0
        if arguments[0] != "storage" and "tpu-vm ssh" not in line:
            code = _tpus(state, arguments)
            return _no("connection reset") if any(x in line for x in state["lost"]) else code
        _maybe_take_away(state)
        gone = state["state"] != "ACTIVE"
    if arguments[0] == "storage":
        return _storage(arguments)
    return _no("node is not there") if gone else _ssh(arguments)


def _failure(state: dict, line: str) -> dict | None:
    for failure in state["fail"]:
        if failure["times"] and all(words in line for words in failure["in"]):
            failure["times"] -= 1
            return failure
    return None


def _no(what: str) -> int:
    print(f"ERROR: (gcloud) {what}", file=sys.stderr)
    return 1


def flag(arguments: list[str], name: str) -> str:
    """Value of a flag, empty where it is not given."""
    found = [x.partition("=")[2] for x in arguments if x.startswith(f"--{name}=")]
    return found[0] if found else ""


# ---------------------------------------------------------------------------- requests and nodes


def _tpus(state: dict, arguments: list[str]) -> int:
    kind, verb = arguments[2:4]
    if (kind, verb) == ("tpu-vm", "list"):
        print("\n".join(state["nodes"]))
    elif (kind, verb) == ("tpu-vm", "delete"):
        _remove(state, arguments[4])
    elif verb == "create":
        if state["state"] != "ABSENT":
            return _no("ALREADY_EXISTS")
        state["coming"], state["state"] = state["states"][1:], state["states"][0]
        _provide(state, arguments)
        state["states"] = state["later_states"] or state["states"]
    elif state["state"] == "ABSENT":
        return _no(f"NOT_FOUND: Resource '{arguments[4]}' was not found")
    elif verb == "delete":
        for node in list(state["nodes"]):
            _remove(state, node)
        state["state"] = "ABSENT"
    else:
        print(state["state"])
        if state["coming"]:
            state["state"] = state["coming"].pop(0)
    return 0


def _provide(state: dict, arguments: list[str]) -> None:
    count, prefix = flag(arguments, "node-count"), flag(arguments, "node-prefix")
    names = [f"{prefix}-{i}" for i in range(int(count))] if count else [flag(arguments, "node-id")]
    state["nodes"] = names if "FAILED" not in state["states"] else []
    for name in state["nodes"]:
        for worker in range(state["workers"]):
            (HERE / "homes" / name / str(worker)).mkdir(parents=True)


def _remove(state: dict, node: str) -> None:
    for pid in (HERE / "homes" / node).glob("*/lrt/train.pid"):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(int(pid.read_text()), signal.SIGKILL)
    shutil.rmtree(HERE / "homes" / node, ignore_errors=True)
    state["nodes"].remove(node)


def _maybe_take_away(state: dict) -> None:
    step = HERE / "bucket/my-bucket/lrt_jax/runs/run/checkpoints/step"
    at = state["taken_at_step"]
    if at and step.exists() and int(step.read_text()) >= at:
        state["taken_at_step"] = 0
        for node in list(state["nodes"]):
            _remove(state, node)
        state["state"] = "SUSPENDED"


# ---------------------------------------------------------------------------- ssh and storage


def _ssh(arguments: list[str]) -> NoReturn:
    node, worker = arguments[4], flag(arguments, "worker")
    home = HERE / "homes" / node / worker
    path = f"{HERE}/bin:/usr/bin:/bin"
    environment = {"HOME": str(home), "PATH": path, "STAND_IN": str(HERE)}
    environment |= {"WHO": f"{node}-{worker}", "WORKER": worker}
    command = ["bash", "-c", flag(arguments, "command")]
    os.chdir(home)
    os.closerange(3, 64)  # ssh hands on no open files
    os.execvpe("bash", command, environment)


def _storage(arguments: list[str]) -> int:
    def place(name: str) -> Path:
        return HERE / "bucket" / name.removeprefix("gs://") if "gs://" in name else Path(name)

    verb, *names = [x for x in arguments[1:] if not x.startswith("--")]
    first, target = place(names[0]), place(names[-1])
    for name in names if verb == "ls" else names[:1]:
        if not place(name).exists():
            return _no(f"{name} matched no objects")
    if verb == "ls":
        print("\n".join(names))
    elif verb == "cat":
        sys.stdout.buffer.write(first.read_bytes())
    elif verb == "cp":
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(first, target)
    else:
        left_out = re.compile(flag(arguments, "exclude") or "(?!)")
        for path in filter(Path.is_file, first.rglob("*")):
            name = path.relative_to(first).as_posix()
            if not left_out.match(name):
                (target / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, target / name)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
