"""What `--help` says of configs: those that ship with the package, their presets, all fields."""

import ast
import dataclasses
import inspect
import re
import textwrap
import typing
from collections.abc import Iterator
from pathlib import Path

from lrt_jax.config import Config, default_config
from lrt_jax.config.files import packaged_configs, presets_of
from lrt_jax.config.schema import flat

ATTRIBUTE = re.compile(r"^  (\w+): (.+(?:\n    .+)*)", re.MULTILINE)  # of a docstring
WIDTH = 80


def config_help() -> str:
    """Packaged configs with their presets, and every field with its default."""
    defaults = flat(default_config().to_dict())
    return "\n".join(
        [
            "configs, for --config=NAME or --config=NAME:PRESET:",
            *(line for item in packaged_configs().items() for line in _config_lines(*item)),
            "  A file of your own: --config=FILE.py; a value with a slash is a path too.",
            "",
            "fields, for --config.FIELD=VALUE, as they are by default; a preset sets some:",
            *(
                line
                for name, about in described_fields(Config)
                if name != "preset"  # follows the name of the config
                for line in (f"  {name}={defaults[name]}", *_indented(about, 6))
            ),
        ]
    )


def described_fields(kind: type, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Dotted names of all fields of a dataclass of config, each with what it says.

    Args:
      kind: the dataclass.
      prefix: of all names.
    """
    classes = [x for x in kind.__mro__ if dataclasses.is_dataclass(x)]
    about = dict(x for parent in classes for x in ATTRIBUTE.findall(inspect.getdoc(parent)))
    for name, field in typing.get_type_hints(kind).items():
        if dataclasses.is_dataclass(field):
            yield from described_fields(field, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", about[name]


def _config_lines(name: str, file: Path) -> list[str]:
    title = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))).partition("\n")[0]
    return [f"  {name}", *_indented(f"{title} Presets: {', '.join(presets_of(file))}.", 6)]


def _indented(text: str, spaces: int) -> list[str]:
    indent = " " * spaces
    return textwrap.wrap(
        " ".join(text.split()), WIDTH, initial_indent=indent, subsequent_indent=indent
    )
