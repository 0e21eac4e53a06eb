"""The files of a workdir that say what was run."""

import functools
import importlib.metadata
import json
import logging
import operator
import platform
from collections.abc import Mapping
from pathlib import Path

import jax

from lrt_jax.config import Config, parse_config
from lrt_jax.config.earlier import earlier_form, present_form
from lrt_jax.config.schema import flat
from lrt_jax.parallel import processes
from lrt_jax.reporting import completions
from lrt_jax.storage.digests import json_digest
from lrt_jax.storage.disk import read_json, write_atomically
from lrt_jax.storage.workdir import step_files

logger = logging.getLogger(__name__)

CONFIG = "config.json"
EVALUATIONS = "eval"
STEP_FILES = {EVALUATIONS: "json", completions.FOLDER: completions.ENDING}  # folders and endings
PACKAGES = (
    "lrt_jax",
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "orbax-checkpoint",
    "grain",
    "transformers",
)
# May differ when a run goes on: they change what is written and when, and no parameter.
HARMLESS = (
    "preset",
    "checkpoint_every",
    "keep_checkpoints",
    "completions_every",
    "eval.every",
    "data.threads",
)
# Fields that runs of earlier versions did not have, by part and name, and what they did.
LATER = {
    ("data", "scenes", "bare"): 0.0,
    ("data", "scenes", "corruption", "flattery"): 0.0,
    ("data", "scenes", "corruption", "leniency"): 0.0,
    ("eval", "held_out_listener"): None,
    ("eval", "others"): [],
    ("mesh", "attn_dp"): 1,
    ("model", "attention"): "auto",
    ("sampling", "weights"): "full",
}
ANOTHER_RUN = "this workdir belongs to another run"
ANOTHER_WORKDIR = "go on with what it had, or take another --workdir"


def write_json(path: Path, content: Mapping) -> None:
    """Writes a JSON file whole or not at all, from the first process alone."""
    if processes.is_first():
        write_atomically(path, (json.dumps(content, indent=2) + "\n").encode())


def digest_of(config: Config) -> str:
    """A short digest of a config."""
    return json_digest(earlier_form(_plain(config)))[:16]


def run_digests(config: Config, inputs: Mapping[str, str]) -> dict[str, str]:
    """What a run's checkpoints have in common, by name: everything that its parameters depend on.

    Args:
      config: of the run.
      inputs: digests of what it reads, by name.
    """
    harmless, recorded = _harmless(config), flat(earlier_form(_plain(config)))
    values = {name: x for name, x in recorded.items() if name not in harmless}
    return {"config": json_digest(values), **inputs}


def _harmless(config: Config) -> set[str]:
    """Fields that may differ when a run goes on."""
    extendable = config.optimizer.schedule == "constant"  # then later steps change no earlier one
    return {*HARMLESS, *(("steps",) if extendable else ())}


def check_same_config(config: Config, workdir: Path, *, allow_changes: bool = False) -> None:
    """Checks that a workdir is new, or belongs to a run with this config.

    Args:
      config: of the run.
      workdir: of the run.
      allow_changes: of fields that change no parameter.

    Raises:
      ValueError: it belongs to another run; the fields that differ are named.
    """
    recorded = _recorded(workdir)
    if recorded is None:
        return
    old, new = flat(present_form(recorded["config"])), flat(_plain(config))
    changed = {name for name in old.keys() | new.keys() if old.get(name) != new.get(name)}
    harmless = changed & _harmless(config)
    refused = changed - harmless if allow_changes else changed
    if not refused:
        return
    message = [f"{name} was {old.get(name)!r} and is {new.get(name)!r}" for name in sorted(refused)]
    remedy = ANOTHER_WORKDIR
    if refused <= harmless:
        remedy = "this changes no parameter: add --allow_changes to go on with it"
    raise ValueError(f"{workdir / CONFIG}: {ANOTHER_RUN}: {'; '.join(message)}. {remedy}")


def check_same_inputs(inputs: Mapping[str, str], workdir: Path) -> None:
    """Checks that what a run reads is what it began with.

    Args:
      inputs: digests, by name.
      workdir: of the run.

    Raises:
      ValueError: a model or the data are others; they are named.
    """
    before = recorded_inputs(workdir)
    others = sorted(name for name, digest in inputs.items() if before.get(name, digest) != digest)
    if others:
        message = [f"the {name} is not the one that it began with" for name in others]
        raise ValueError(
            f"{workdir / CONFIG}: {ANOTHER_RUN}: {'; '.join(message)}. {ANOTHER_WORKDIR}"
        )


def recorded_config(workdir: Path) -> Config:
    """The config of the run that a workdir belongs to.

    Raises:
      FileNotFoundError: no run has begun there.
      ValueError: what is recorded there is no config.
    """
    recorded = _recorded(workdir)
    if recorded is None:
        raise FileNotFoundError(f"{workdir / CONFIG}: no such file; name the folder of a run")
    return parse_config(present_form(recorded["config"]))


def recorded_inputs(workdir: Path) -> dict[str, str]:
    """Digests of what the run that a workdir belongs to reads, by name."""
    return (_recorded(workdir) or {}).get("inputs", {})


def record_config(config: Config, inputs: Mapping[str, str], workdir: Path) -> None:
    """Writes `config.json`: what is run, on what, and every software and hardware that ran it.

    Where these change, a run goes on, but not in the same bits: the log holds what has changed.
    """
    launches, now = (_recorded(workdir) or {}).get("launches", []), versions()
    if not launches or launches[-1] != now:
        for name, value in now.items() if launches else ():
            if (before := launches[-1].get(name)) != value:
                logger.info(f"note: {name} was {before} and is {value}; the last bits may differ")
        launches = [*launches, now]
    content = {"config": _plain(config), "inputs": dict(inputs), "launches": launches}
    write_json(workdir / CONFIG, content)


def delete_after(workdir: Path, step: int) -> None:
    """Removes completions and evaluations of steps that will be made again."""
    if processes.is_first():
        for name, ending in STEP_FILES.items():
            folder = workdir / name
            splits = [x for x in folder.iterdir() if x.is_dir()] if folder.is_dir() else []
            for place in (folder, *splits):
                for done, path in step_files(place, ending).items():
                    if done > step:
                        path.unlink()


def _recorded(workdir: Path) -> dict | None:
    """What `record_config` wrote; None where the workdir is new."""
    path = workdir / CONFIG
    if not path.is_file():
        if any((workdir / "checkpoints").glob("[0-9]*")):
            raise FileNotFoundError(
                f"{path}: gone, so that nobody can say what the checkpoints beside it are of; "
                "restore it, or take another --workdir"
            )
        return None
    found = read_json(path)
    kinds = {"config": dict, "inputs": dict, "launches": list}
    if not isinstance(found, dict) or not (
        {"config", "inputs"} <= found.keys()
        and all(isinstance(found.get(name, kind()), kind) for name, kind in kinds.items())
    ):
        raise ValueError(f"{path}: not what a run writes; restore it, or take another --workdir")
    return found


def _plain(config: Config) -> dict:
    """As JSON gives it back, lists for tuples.

    Fields that earlier versions did not have are left out where they are unset, or say what was
    done then: a run that began with such a version is the same run still. What is profiled is no
    part of a run.
    """
    values = json.loads(json.dumps(config.to_dict()))
    del values["profile"]
    for (*parts, name), value in LATER.items():
        part = functools.reduce(operator.getitem, parts, values)
        if part[name] == value:
            del part[name]
    values["prompts"] = {name: text for name, text in values["prompts"].items() if text is not None}
    if not values["prompts"]:
        del values["prompts"]
    if not values["rewards"]["weights"]:
        del values["rewards"]["weights"]
    if not values["sampling"]:
        del values["sampling"]
    return values


def versions() -> dict[str, str]:
    """Of Python, of what matters to a run's numbers, and of the machine."""
    shared = f" of {processes.count()} processes" if processes.count() > 1 else ""
    found = {
        "platform": platform.platform(),
        "devices": f"{jax.device_count()} {jax.devices()[0].device_kind}" + shared,
        "python": platform.python_version(),
    }
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:  # run from a checkout
            found[package] = "not installed"
    return found
