"""Makes every table, output and picture of the README and the docs anew, part by part.

    python -m benchmarks.readme --workdir=DIR                       # all of it, hours
    python -m benchmarks.readme --workdir=DIR --parts=run,learning  # these alone
    python -m benchmarks.readme --workdir=DIR --list                # parts, minutes, what is done
    python -m benchmarks.readme --workdir=DIR --check               # what pages say otherwise

A part runs the commands that its pages show, in the checkout, and keeps in DIR/PART what they print
(NAME.out, NAME.err) and make (work/). When they have ended, its blocks of the pages are filled in:
what stands between `<!-- made by PART: BLOCK -->` and `<!-- end -->`. A part that has ended is not
run again unless its commands are others: to have it anew, remove DIR/PART. One that was killed is
begun anew, or goes on where its command can. `benchmarks/readme_parts.py` has the parts.

Exit code 0: all is made, and as the pages say. 1: a part failed, or a page says otherwise. 2: all
else is well, but parts were left out, for want of what they need, or with --check of what DIR has.
"""

import contextlib
import datetime
import importlib.metadata
import importlib.util
import itertools
import json
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from absl import flags

from benchmarks import pages
from benchmarks.readme_parts import PARTS, RECORD, WORK, Part
from lrt_jax.cli import commands
from lrt_jax.storage.disk import locked, read_fields, write_atomically

CODE = ("lrt_jax", "benchmarks", "configs", "tests")
PACKAGES = ("jax", "jaxlib", "flax", "libtpu")


def define_flags(values: flags.FlagValues) -> None:
    """Defines this command's flags."""
    commands.define_text(values, "workdir", "Folder of what the parts print and make.")
    flags.DEFINE_list("parts", [], "Those to make or to look at; empty: all.", flag_values=values)
    flags.DEFINE_bool("list", False, "Show the parts, and run none.", flag_values=values)
    check = "Say which blocks and pictures differ from what DIR has, and write nothing."
    flags.DEFINE_bool("check", False, check, flag_values=values)
    peer = "Interpreter of an environment with TRL, for the part `parity`."
    flags.DEFINE_string("peer_python", "", peer, flag_values=values)


def main(values: flags.FlagValues) -> None:
    """Runs the command with flags that are parsed."""
    folder = Path(values.workdir).absolute()
    parts = chosen(values.parts)
    check_blocks(PARTS)
    places = find_places(values.peer_python)
    if values.list:
        commands.log(listing(parts, folder, places))
    elif values.check:
        sys.exit(compare(parts, folder))
    else:
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder):
            sys.exit(make(parts, folder, places))


def chosen(names: list[str], parts: Mapping[str, Part] = PARTS) -> dict[str, Part]:
    """The parts of those names, or all.

    Raises:
      ValueError: there is no such part.
    """
    if unknown := [name for name in names if name not in parts]:
        raise ValueError(f"--parts: no part {', '.join(unknown)}; there are {', '.join(parts)}")
    return {name: part for name, part in parts.items() if not names or name in names}


def check_blocks(parts: Mapping[str, Part]) -> None:
    """Refuses pages with a block that no part makes, and parts with one that no page has.

    Raises:
      ValueError: with page and block; or the comments of a page are no pairs.
    """
    texts = pages.read_pages()
    known = {
        (page, (name, block))
        for name, part in parts.items()
        for page, makers in part.blocks.items()
        for block in makers
    }
    for page, text in {**{page: "" for page, _ in known}, **texts}.items():
        pages.filled(page, text, {block: "" for at, block in known if at == page})
        for block in pages.blocks(page, text):
            if (page, block) not in known:
                raise ValueError(f"{page}: nothing makes {pages.begin(block)}; see readme_parts.py")


# ---------------------------------------------------------------------------- what a part needs


def find_places(peer_python: str) -> dict[str, str]:
    """What FOLDER, FILE and PYTHON stand for in commands; empty where nobody has said it."""
    data = os.environ.get("LRT_TEST_DATA", "")
    names = {"FOLDER": "hpd_gallery", "FILE": "imagereward_test/test.json"}
    places = {name: data and os.path.abspath(f"{data}/{path}") for name, path in names.items()}
    return places | {"PYTHON": peer_python and os.path.abspath(peer_python)}


def lacks(part: Part, places: Mapping[str, str]) -> str:
    """Why a part cannot run here; empty where it can."""
    if part.needs == "libtpu" and not importlib.util.find_spec("libtpu"):
        return "libtpu is not installed; pip install libtpu, which is for Linux on x86-64"
    if part.needs == "LRT_TEST_DATA":
        for name in ("FOLDER", "FILE"):
            if not (places[name] and Path(places[name]).exists()):
                what = places[name] or "it is not set"
                return f"LRT_TEST_DATA names no folder of real preference data ({what})"
    if part.needs == "peer_python":
        code = "import importlib.util, sys; sys.exit(importlib.util.find_spec('trl') is None)"
        with contextlib.suppress(OSError):
            if subprocess.run([places["PYTHON"], "-c", code], capture_output=True).returncode == 0:
                return ""
        return f"--peer_python={places['PYTHON']}: name the interpreter of an environment with TRL"
    return ""


# ---------------------------------------------------------------------------- running


def make(parts: Mapping[str, Part], workdir: Path, places: Mapping[str, str]) -> int:
    """Runs parts and fills in their blocks, one after the other; the exit code."""
    began, at, failed = time.monotonic(), revision(), []
    ended = [name for name, part in parts.items() if state(part, workdir / name) == "ended"]
    reasons = {name: lacks(part, places) for name, part in parts.items() if name not in ended}
    left = sum(parts[name].minutes for name, reason in reasons.items() if not reason)
    for number, (name, part) in enumerate(parts.items(), start=1):
        told, folder = f"part {number}/{len(parts)} {name}", workdir / name
        if reasons.get(name):
            commands.log(f"{told}: left out, and its blocks stay as they are: {reasons[name]}")
            continue
        clocks = f"{_clock(time.monotonic() - began)} so far, ETA {_clock(60 * left)}"
        what = "ended earlier" if name in ended else f"about {part.minutes:g} min, in {folder}"
        commands.log(f"{told}: {what}; {clocks}")
        try:
            run_part(part, folder, places, at)
            write(name, part, folder)
        except (ValueError, OSError) as error:
            failed.append(name)
            commands.log(f"{told}: failed, and its blocks stay as they are: {error}")
        left -= part.minutes if name in reasons else 0
    return 1 if failed else 2 if any(reasons.values()) else 0


def run_part(part: Part, folder: Path, places: Mapping[str, str], at: Mapping) -> None:
    """Runs the commands of a part that have not ended.

    Args:
      part: to run.
      folder: its own.
      places: what FOLDER, FILE and PYTHON stand for.
      at: commit and versions, see `revision`.

    Raises:
      ValueError: a command fails.
    """
    now = state(part, folder)
    if now == "changed" or now == "begun" and not part.resumes:
        _set_aside(folder)
    record = _record(folder) or {"commands": {**part.commands}, "ended": [], "commits": []}
    if len(record["ended"]) == len(part.commands):
        return
    commits = dict.fromkeys([*record["commits"], at["commit"]])
    record |= {"commits": [*commits], "versions": at["versions"]}
    (folder / WORK).mkdir(parents=True, exist_ok=True)
    for name, command in part.commands.items():
        if name not in record["ended"]:
            _write_record(folder, record)
            _run_command(command, folder, name, places, part.told)
            record["ended"].append(name)
    _write_record(folder, record)


def _run_command(
    command: str, folder: Path, name: str, places: Mapping[str, str], told: str
) -> None:
    """Runs a command by a shell, as one would type it, with this process's `python`."""
    places = {**places, "DIR": str(folder / WORK)}
    line = re.sub(r"\b(DIR|FOLDER|FILE|PYTHON)\b", lambda x: shlex.quote(places[x[1]]), command)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    output, errors = (folder / f"{name}.{ending}" for ending in ("out", "err"))
    options = {"cwd": pages.ROOT, "env": os.environ | {"PATH": path}, "stdin": subprocess.DEVNULL}
    with output.open("w") as options["stdout"], errors.open("w") as options["stderr"]:
        code = _wait(subprocess.Popen(["bash", "-c", line], **options))
    if code and not (told and told in output.read_text(errors="replace")):
        said = [x.read_text(errors="replace").strip() for x in (errors, output)]
        last = "\n  ".join(next(filter(None, said), "nothing").split("\n")[-3:])
        raise ValueError(f"{line}: exit code {code}; {output} and {errors} end with\n  {last}")


def _wait(process: subprocess.Popen) -> int:
    """The exit code of a process, which is asked to end where this one is."""
    with process:
        try:
            return process.wait()
        except BaseException:
            process.terminate()
            raise


def state(part: Part, folder: Path) -> str:
    """How far a part is: new, begun, ended, or changed, by other commands than its record's."""
    record = _record(folder)
    if not record:
        return "new"
    if record["commands"] != part.commands:
        return "changed"
    return "ended" if len(record["ended"]) == len(part.commands) else "begun"


def _record(folder: Path) -> dict | None:
    file, remedy = folder / RECORD, f"remove {folder} to begin the part anew"
    record = read_fields(file, remedy) if file.exists() else None
    if record is not None and not {"commands", "ended", "commits"} <= record.keys():
        raise ValueError(f"{file}: is no record of a part; {remedy}")
    return record


def _write_record(folder: Path, record: Mapping) -> None:
    write_atomically(folder / RECORD, f"{json.dumps(record, indent=1)}\n".encode())


def _set_aside(folder: Path) -> None:
    """Gives a folder another name: what was made stays, and is in nobody's way."""
    names = (folder.with_name(f"{folder.name}.{number}") for number in itertools.count(1))
    other = next(name for name in names if not name.exists())
    commands.log(f"{folder}: set aside as {other}")
    folder.rename(other)


def revision() -> dict:
    """Which code runs here: the commit, with a + where files differ from it, and versions."""

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=pages.ROOT, capture_output=True, text=True)
        return done.stdout.strip()

    commit = "unknown"
    with contextlib.suppress(FileNotFoundError):  # no git
        commit = git("rev-parse", "--short", "HEAD") or commit
        commit += "+" if git("status", "--porcelain", "--", *CODE) else ""
    versions = {}
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return {"commit": commit, "versions": versions}


# ---------------------------------------------------------------------------- pages


def made_blocks(name: str, part: Part, folder: Path) -> dict[str, dict[pages.Block, str]]:
    """The blocks of a part that has ended, by page.

    Raises:
      ValueError: an output is not such as a block is made of.
    """
    made: dict[str, dict[pages.Block, str]] = {}
    for page, makers in part.blocks.items():
        for block, maker in makers.items():
            try:
                made.setdefault(page, {})[name, block] = maker(folder)
            except (LookupError, TypeError, ValueError, OSError) as error:
                remedy = f"remove {folder} to run the part again"
                what = f"cannot be made of {folder} ({type(error).__name__}: {error}); {remedy}"
                raise ValueError(f"{page}: {pages.begin((name, block))} {what}") from error
    return made


def changed(name: str, part: Part, folder: Path) -> dict[str, bytes]:
    """New contents of pages and files in which a part that has ended changes something."""
    texts = pages.read_pages()
    new = {path: (folder / WORK / file).read_bytes() for path, file in part.files.items()}
    for page, blocks in made_blocks(name, part, folder).items():
        new[page] = pages.filled(page, texts[page], blocks).encode()
    there = {path: (pages.ROOT / path).read_bytes() for path in new if (pages.ROOT / path).exists()}
    return {path: content for path, content in new.items() if there.get(path) != content}


def write(name: str, part: Part, folder: Path) -> None:
    """Fills in the blocks of a part that has ended, and copies its files; nothing else."""
    for path, content in changed(name, part, folder).items():  # all are made by now
        write_atomically(pages.ROOT / path, content)


def differences(name: str, part: Part, folder: Path) -> Iterator[str]:
    """Which blocks and files of a part that has ended are others in the checkout."""
    for path, content in changed(name, part, folder).items():
        if path in part.files:
            yield path
        else:
            here = pages.blocks(path, (pages.ROOT / path).read_text(encoding="utf-8"))
            new = pages.blocks(path, content.decode())
            yield from (f"{path}: {pages.begin(b)}" for b in new if new[b] != here[b])


def compare(parts: Mapping[str, Part], workdir: Path) -> int:
    """Says what pages say otherwise than the parts that have ended; the exit code."""
    code = 0
    for name, part in parts.items():
        now = state(part, workdir / name)
        if now != "ended":
            commands.log(f"{name}: not compared: {now}")
            code = code or 2
        elif differ := [*differences(name, part, workdir / name)]:
            commands.log("\n".join(f"{name}: differs: {what}" for what in differ))
            code = 1
    return code


def listing(parts: Mapping[str, Part], workdir: Path, places: Mapping[str, str]) -> str:
    """A line for each part."""
    lines = [f"{'part':16}{'minutes':>7}  {'state':20}makes"]
    for name, part in parts.items():
        now, record = state(part, workdir / name), _record(workdir / name)
        told = f"{now} {', '.join(record['commits'])}" if record else now
        lines.append(f"{name:16}{part.minutes:7g}  {told:20}{'; '.join(part.makes)}")
        if now != "ended" and (reason := lacks(part, places)):
            lines.append(f"{'':25}cannot run here: {reason}")
    return "\n".join(lines)


def _clock(seconds: float) -> str:
    return str(datetime.timedelta(seconds=round(seconds)))


def run() -> None:
    """Entry point."""
    commands.run(main, define_flags)


if __name__ == "__main__":
    run()
