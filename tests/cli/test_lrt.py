"""`lrt` as `pip install .` leaves it: built, installed into a fresh environment, run elsewhere."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

import lrt_jax
from lrt_jax import __main__ as lrt
from tests.patience import LONG

ROOT = Path(__file__).parents[2]
BUILT_FROM = ("lrt_jax", "configs", "setup.py", "pyproject.toml", "README.md", "LICENSE")
PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel, built from a copy, so that nothing is left in the checkout."""
    copy, built = tmp_path_factory.mktemp("copy"), tmp_path_factory.mktemp("built")
    for name in BUILT_FROM:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, copy)
    build = f"from setuptools.build_meta import build_wheel; build_wheel({str(built)!r})"
    subprocess.run([sys.executable, "-c", build], cwd=copy, check=True, stdout=subprocess.DEVNULL)
    (file,) = built.iterdir()
    return file


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """Programs of an environment with the wheel, and with the libraries of this one."""
    folder = tmp_path_factory.mktemp("venv")
    venv.create(folder, symlinks=True)
    programs = folder / "bin"
    names = {"base": str(folder), "platbase": str(folder)}
    packages = Path(sysconfig.get_path("purelib", "venv", names))
    offline = ("--quiet", "--no-deps", "--no-index", "--no-compile")
    install = [*PIP, f"--python={programs / 'python'}", "install", *offline, wheel]
    subprocess.run(install, check=True, env=_apart())
    libraries = {sysconfig.get_path(x) for x in ("purelib", "platlib")}
    (packages / "libraries.pth").write_text("\n".join(sorted(libraries)))
    return programs


def run(program: Path, *args: str, cwd: Path) -> subprocess.CompletedProcess:
    """Runs a program of the environment in a folder, apart from the checkout."""
    command, env = [program, *args], _apart() | {"COLUMNS": "80"}
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=LONG)


def _apart() -> dict[str, str]:
    """The environment, in which the checkout is not on the path."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


def test_the_wheel_has_all_code_all_configs_and_all_data(wheel):
    files = [x for x in (ROOT / "lrt_jax").rglob("*") if x.is_file() and x.suffix != ".pyc"]
    files += (ROOT / "configs").glob("*.py")
    names = [str(file.relative_to(ROOT)) for file in files]
    wanted = {re.sub("^configs/", "lrt_jax/configs/", name) for name in names}
    held = {x for x in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in x}
    assert held == wanted
    assert "lrt_jax/assets/tiny/model.safetensors" in held


@pytest.mark.slow
def test_lrt_runs_from_any_folder(installed, tmp_path):
    found = run(installed / "python", "-c", "import lrt_jax; print(lrt_jax.__file__)", cwd=tmp_path)
    assert Path(found.stdout.strip()).is_relative_to(installed.parent), found

    listed = run(installed / "lrt", "--help", cwd=tmp_path)
    assert listed.returncode == 0 and not listed.stderr
    assert re.search("^  train     Trains a reasoner, ", listed.stdout, re.MULTILINE)

    helped = run(installed / "lrt", "evaluate", "--help", cwd=tmp_path)
    assert helped.returncode == 0 and not helped.stderr
    for text in (
        "    lrt evaluate --model=",
        "Presets: auto, tiny",
        "  optimizer.b1=0.9",
    ):
        assert text in helped.stdout

    assert not [*tmp_path.iterdir()]


def test_a_command_is_run_as_python_does_with_modules_of_ones_own_in_reach(monkeypatch):
    runs = []
    monkeypatch.setattr(
        lrt.runpy, "run_module", lambda *given, **how: runs.append((given, how, sys.argv, sys.path))
    )
    monkeypatch.setattr(sys, "argv", ["bin/lrt", "train", "--config=scenes", "--help"])
    monkeypatch.setattr(sys, "path", ["bin"])
    lrt.main()
    ((given, how, argv, path),) = runs
    assert given == ("lrt_jax.main",) and how == {"run_name": "__main__", "alter_sys": True}
    assert argv == ["bin/lrt", "--config=scenes", "--help"]
    assert path == ["", "bin"]


def test_every_module_beside_the_rooms_is_a_command():
    modules = {path.stem for path in Path(lrt_jax.__file__).parent.glob("[!_]*.py")}
    assert modules >= {"main", "prepare", "evaluate", "export", "plan"}
    called = lrt.commands()
    assert called["train"] == "lrt_jax.main" and "main" not in called
    assert {*called.values()} == {f"lrt_jax.{module}" for module in modules}
    shown = lrt.usage(called).splitlines()
    assert all(any(line.split()[:1] == [name] for line in shown) for name in called)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["trian", "--config=scenes"], "no such command; there are .*; did you mean train[?]$"),
        (["main"], "no such command; there are .*; did you mean train[?]$"),
        (["zzz"], "no such command; there are .*train$"),
        (["--config=scenes"], "no such command; there are .*train"),
    ],
)
def test_an_unknown_command_is_told_with_the_nearest(arguments, told, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["lrt", *arguments])
    with pytest.raises(SystemExit, match=f"^error: lrt {arguments[0]}: {told}"):
        lrt.main()


def test_without_a_command_those_there_are_are_listed(monkeypatch, capsys):
    for arguments in ([], ["--help"]):
        monkeypatch.setattr(sys, "argv", ["lrt", *arguments])
        lrt.main()
        assert "  train " in capsys.readouterr().out
