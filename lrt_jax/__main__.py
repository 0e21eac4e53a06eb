"""The commands under one name: `lrt COMMAND` does what `python -m lrt_jax.COMMAND` does.

A command is a module beside this one; what it is called here is its name, but for those in
`TITLES`. What `lrt --help` says of it is the first line of its docstring.
"""

import ast
import difflib
import importlib.util
import pkgutil
import runpy
import sys

import lrt_jax
from lrt_jax import cli

TITLES = {"main": "train"}


def main() -> None:
    """Runs the command that the first argument names, with the arguments that follow it."""
    cli.end_quietly()
    modules = commands()
    name, rest = (sys.argv[1:2] or ["--help"])[0], sys.argv[2:]
    if name in ("-h", "--help", "-help", "help"):
        print(usage(modules))
    elif name == "--version":
        print(f"lrt_jax {lrt_jax.__version__}")
    elif name in modules:
        if not sys.flags.safe_path:  # as with `python -m`: modules of your own that a config names
            sys.path.insert(0, "")
        sys.argv = [sys.argv[0], *rest]
        runpy.run_module(modules[name], run_name="__main__", alter_sys=True)
    else:
        sys.exit(f"error: lrt {name}: {_unknown(name, list(modules))}")


def commands() -> dict[str, str]:
    """Modules of all commands, by what they are called."""
    names = [x.name for x in pkgutil.iter_modules(lrt_jax.__path__) if not x.ispkg]
    modules = {TITLES.get(x, x): f"lrt_jax.{x}" for x in names if not x.startswith("_")}
    return dict(sorted(modules.items()))


def usage(modules: dict[str, str]) -> str:
    """What to type, and what each command is for.

    Args:
      modules: of the commands, by what they are called.
    """
    width = max(map(len, modules))
    lines = [f"  {name:{width}}  {_about(module)}" for name, module in modules.items()]
    return "\n".join(
        [
            "lrt COMMAND --FLAG=VALUE ...",
            "lrt COMMAND --help            what it does, its flags, and the configs that it takes",
            "",
            *lines,
            "",
            "`lrt train` is the module lrt_jax.main, for `python -m`; others have their own name.",
        ]
    )


def _about(module: str) -> str:
    """First line of a module's docstring; importing it would take seconds."""
    source = importlib.util.find_spec(module).loader.get_source(module)
    return ast.get_docstring(ast.parse(source)).partition("\n")[0]


def _unknown(name: str, known: list[str]) -> str:
    """What to say of a command that there is not, with the nearest that there is."""
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]}?" if near else ""
    return f"no such command; there are {', '.join(known)}{hint}"


if __name__ == "__main__":
    main()
