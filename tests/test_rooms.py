"""The rooms of the package: what may import what, read from the code."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import lrt_jax
from lrt_jax.models.families import names

PACKAGE = Path(__file__).parents[1] / "lrt_jax"
# A room imports itself and those before it. Commands, the last, are the modules of `COMMANDS`.
ROOMS = (
    *("assets", "parallel", "storage", "config", "models", "data", "rl", "evaluation"),
    *("inference", "serving", "reporting", "algorithms", "training", "planning", "cli"),
)
COMMANDS = (
    *(path.stem for path in PACKAGE.glob("*.py") if path.stem != "__init__"),
    *("assets.make_tiny", "assets.tokenizer"),
)
# The same inside of the largest room.
DATA = (
    *("plain_text", "captions", "schema", "colour_profiles", "images"),
    *("scenes", "sources", "dataset", "preparation", "input"),
)


def modules() -> dict[str, Path]:
    """Files by module, without the package's name."""
    found = {}
    for path in PACKAGE.rglob("*.py"):
        *folders, name = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(folders if name == "__init__" else [*folders, name])] = path
    return found


MODULES = modules()


def imported(module: str) -> Iterator[str]:
    """Modules of the package that one imports, be it inside of a function."""
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{module}: a relative import hides the room that it leads to"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            first, _, rest = name.partition(".")
            if first == "lrt_jax":
                yield rest if rest in MODULES else rest.rpartition(".")[0]


def floor(module: str) -> tuple[int, int]:
    """Where a module's room stands in the order; the package itself is below all."""
    first, _, rest = module.partition(".")
    if not module:
        return -1, 0
    if module in COMMANDS:
        return len(ROOMS), 0
    second = rest.partition(".")[0]
    return ROOMS.index(first), DATA.index(second) if first == "data" and second else 0


@pytest.mark.parametrize("module", [x for x in MODULES if x])
def test_a_room_imports_only_those_before_it(module):
    above = [other for other in imported(module) if floor(other) > floor(module)]
    assert not above


def test_no_module_imports_itself_by_way_of_others():
    waiting = {module: {x for x in imported(module) if x != module} for module in MODULES}
    while free := [module for module, others in waiting.items() if not others & waiting.keys()]:
        for module in free:
            del waiting[module]
    assert not waiting


def test_the_package_does_nothing_when_it_is_imported():
    code = "import lrt_jax, sys; print(*(x for x in ('jax', 'numpy', 'absl') if x in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
    assert "load_model" in dir(lrt_jax) and callable(lrt_jax.load_model)
    with pytest.raises(AttributeError, match="lode_model"):
        lrt_jax.lode_model  # noqa: B018


def test_a_family_of_models_is_known_to_itself_alone():
    families = [f"models.{name}" for name in names()]
    assert families == ["models.qwen2_5_vl"]
    for module in MODULES:
        for family in families:
            inside = [x for x in imported(module) if f"{x}.".startswith(f"{family}.")]
            assert not inside or f"{module}.".startswith(f"{family}."), module
