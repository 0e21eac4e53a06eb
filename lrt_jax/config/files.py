"""Config files: by name where they ship with the package, and else by path."""

import difflib
import os
import runpy
import typing
from collections.abc import Iterable
from pathlib import Path

from lrt_jax.config.choices import Preset

PACKAGE = Path(__file__).parents[1]


def packaged_configs() -> dict[str, Path]:
    """Files of the configs that ship with the package, by name."""
    installed = PACKAGE / "configs"  # in a checkout they lie at its top
    return {
        file.stem: file
        for file in _files_in(installed if installed.is_dir() else PACKAGE.parent / "configs")
    }


def config_path(name: str) -> Path:
    """The file that `--config` names.

    Args:
      name: a path, if it has a slash or ends in `.py`; anything else is a packaged config's name.

    Raises:
      ValueError: there is none; the message lists those there are.
    """
    packaged = packaged_configs()
    is_path = "/" in name or name.endswith(".py")
    if not is_path and name in packaged:
        return packaged[name]
    if is_path and Path(name).is_file():
        return Path(name)
    nearby = {file for folder in (Path("configs"), Path(name).parent) for file in _files_in(folder)}
    own = sorted(map(_as_typed, nearby - {*packaged.values()}))
    what = "file" if is_path else "config"
    raise ValueError(f"there is no {what} {name}; {_those_there_are(name, [*packaged, *own])}")


def presets_of(file: Path) -> list[str]:
    """The presets that a config file takes."""
    get_config = runpy.run_path(str(file))["get_config"]

    def takes(preset: str) -> bool:
        try:
            get_config(preset)
        except ValueError:
            return False
        return True

    return [preset for preset in typing.get_args(Preset) if takes(preset)]


def _files_in(folder: Path) -> list[Path]:
    """Whole paths of the config files in a folder."""
    return [
        file
        for file in sorted(folder.absolute().glob("*.py"))
        if "def get_config(" in file.read_text(encoding="utf-8", errors="replace")
    ]


def _as_typed(file: Path) -> str:
    return os.path.relpath(file) if file.is_relative_to(Path.cwd()) else str(file)


def _those_there_are(name: str, configs: Iterable[str]) -> str:
    """Which configs there are, and the nearest by its name."""
    names = {Path(config).stem: config for config in configs}
    near = difflib.get_close_matches(Path(name).stem, list(names), n=1, cutoff=0.5)
    hint = f"; did you mean {names[near[0]]}?" if near else ""
    return f"there are {', '.join(configs)}, with presets after a colon, as in :tiny{hint}"
