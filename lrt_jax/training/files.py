"""The files of a workdir that say what was run."""

import importlib.metadata
import json
import platform
from collections.abc import Mapping
from pathlib import Path

import jax

from lrt_jax.config import Config
from lrt_jax.parallel.hosts import is_first_process
from lrt_jax.reporting.metrics import write_atomically

CONFIG = "config.json"
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


def write_json(path: Path, content: Mapping) -> None:
    """Writes a JSON file whole or not at all, from the first process alone."""
    if is_first_process():
        write_atomically(path, (json.dumps(content, indent=2) + "\n").encode())


def check_same_run(config: Config, workdir: Path) -> None:
    """Checks that a workdir is new, or belongs to a run with this config.

    Raises:
      ValueError: it belongs to a run with another; the fields are named.
    """
    path = workdir / CONFIG
    if not path.is_file():
        return
    old, new = _flat(json.loads(path.read_text())["config"]), _flat(_plain(config))
    extendable = config.optimizer.schedule == "constant"  # then later steps change no earlier one
    harmless = (*HARMLESS, "steps") if extendable else HARMLESS
    changed = [
        f"{name} was {old.get(name)!r} and is {new.get(name)!r}"
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name) and name not in harmless
    ]
    if changed:
        raise ValueError(
            f"{path}: this workdir belongs to a run with another config: {'; '.join(changed)}. "
            "Go on with the config it has, or take another --workdir"
        )


def record_config(config: Config, workdir: Path) -> None:
    """Writes `config.json`: what is run, with which software."""
    content = {"config": _plain(config), "versions": versions(), "platform": platform.platform()}
    write_json(workdir / CONFIG, content)


def _plain(config: Config) -> dict:
    """As JSON gives it back: lists for tuples."""
    return json.loads(json.dumps(config.to_dict()))


def versions() -> dict[str, str]:
    """Of Python, of what matters to a run's numbers, and of the devices' runtime."""
    found = {"python": platform.python_version(), "backend": jax.default_backend()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:  # run from a checkout
            found[package] = "not installed"
    return found


def _flat(values: Mapping, prefix: str = "") -> dict:
    flat = {}
    for name, value in values.items():
        nested = _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else None
        flat.update(nested if nested else {f"{prefix}{name}": value})
    return flat
