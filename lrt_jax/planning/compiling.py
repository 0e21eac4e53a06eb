"""Compiles a piece for a topology, once: what the compiler said is kept in the user's cache."""

import contextlib
import dataclasses
import hashlib
import importlib.metadata
import json
import os
import re
import time
from pathlib import Path

import jax
from jax.stages import Compiled as Executable
from jax.stages import Lowered

from lrt_jax.planning import compiled_text
from lrt_jax.planning.compiled_text import Collective, Program
from lrt_jax.planning.topology import GIB
from lrt_jax.rl.tracing import Piece
from lrt_jax.storage.digests import check_seal, sealed
from lrt_jax.storage.disk import cache_folder, write_atomically

PACKAGES = ("jax", "jaxlib", "libtpu")
SETTINGS = ("XLA_FLAGS", "LIBTPU_INIT_ARGS")  # of the environment, which change what is compiled
UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": GIB, "T": 2**40}


@dataclasses.dataclass(frozen=True)
class Compiled:
    """What the compiler said of a piece.

    Attributes:
      seconds: that it took.
      arguments: bytes on a chip, of those arguments that the program reads.
      temporaries: bytes.
      outputs: bytes.
      aliased: bytes of outputs that lie where arguments were.
      read_arguments: for each argument whether the program reads it.
      program: what its text says; None where it would not compile for want of memory.
      refused: the compiler's words on that.
      wanted: bytes that it wanted then, arguments and temporaries together; 0 if it did not say.
    """

    seconds: float
    arguments: int
    temporaries: int
    outputs: int
    aliased: int
    read_arguments: tuple[bool, ...]
    program: Program | None
    refused: str = ""
    wanted: int = 0


def compile_piece(piece: Piece, topology: str, *, fresh: bool = False) -> tuple[Compiled, bool]:
    """Compiles a piece, or reads what was said of it before.

    Args:
      piece: traced on devices of the topology.
      topology: its name.
      fresh: compile it whatever is known.

    Returns:
      What the compiler said, and whether it was known already.
    """
    lowered = piece.traced.lower()
    path = _cache_file(lowered, piece, topology)
    known = None if fresh else _read(path)
    if known is not None:
        return known, True
    compiled = _compile(lowered, piece)
    _write(path, compiled)
    return compiled, False


def _compile(lowered: Lowered, piece: Piece) -> Compiled:
    began = time.monotonic()
    try:
        executable = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return _refused(str(error), time.monotonic() - began, len(piece.arguments))
    seconds = time.monotonic() - began
    memory = executable.memory_analysis()
    return Compiled(
        seconds=round(seconds, 1),
        arguments=memory.argument_size_in_bytes,
        temporaries=memory.temp_size_in_bytes,
        outputs=memory.output_size_in_bytes,
        aliased=memory.alias_size_in_bytes,
        read_arguments=_read_arguments(executable),
        program=compiled_text.read(executable.as_text(), piece.tokens),
    )


def _read_arguments(executable: Executable) -> tuple[bool, ...]:
    """JAX leaves out arguments that a function does not read; they then have no sharding."""
    shardings = executable.in_tree.flatten_up_to(executable.input_shardings)
    return tuple(sharding is not None for sharding in shardings)


def _refused(message: str, seconds: float, arguments: int) -> Compiled:
    message = " ".join(message.split())
    used = re.search(r"Used ([\d.]+)([KMGT]?) of", message)
    temporaries = re.search(r"temporaries \(([\d.]+)([KMGT]?)\)", message)
    size = lambda found: int(float(found[1]) * UNITS[found[2]]) if found else 0  # noqa: E731
    return Compiled(
        seconds=round(seconds, 1),
        arguments=0,
        temporaries=size(temporaries),
        outputs=0,
        aliased=0,
        read_arguments=(True,) * arguments,
        program=None,
        refused=message[:300],
        wanted=size(used),
    )


# ---------------------------------------------------------------------------- what is known already


def _cache_file(lowered: Lowered, piece: Piece, topology: str) -> Path | None:
    """Named by a digest of the program, and of all that compiles it and reads what comes of it.

    The program's text holds whatever of the config and of the code matters to it, but not the
    arguments that it does not read.
    """
    digest = hashlib.sha256()
    devices = [device.id for device in piece.arguments[0].sharding.mesh.devices.flat]
    facts = {
        "topology": topology,
        "devices": devices,
        "tokens": piece.tokens,
        "arguments": [f"{x.dtype}{x.shape}" for x in piece.arguments],
        "versions": {name: _version(name) for name in PACKAGES},
        "settings": {name: os.environ.get(name, "") for name in SETTINGS},
    }
    digest.update(json.dumps(facts, sort_keys=True).encode())
    for module in (__file__, compiled_text.__file__):
        digest.update(Path(module).read_bytes())
    digest.update(lowered.as_text().encode())
    with contextlib.suppress(ValueError):  # nobody knows the user's cache folder
        return cache_folder("plans") / f"{digest.hexdigest()}.json"
    return None


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _read(path: Path | None) -> Compiled | None:
    """What is known; None where nothing is, or where it is not what was written."""
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError, RecursionError):
        content = json.loads(path.read_bytes()) if path else None
        check_seal(content)
        facts = content["compiled"]
        if (program := facts["program"]) is not None:
            collectives = tuple(Collective(**x) for x in program["collectives"])
            facts["program"] = Program(**program | {"collectives": collectives})
        return Compiled(**facts | {"read_arguments": tuple(facts["read_arguments"])})
    return None


def _write(path: Path | None, compiled: Compiled) -> None:
    with contextlib.suppress(OSError):  # a cache: without it the piece is compiled again
        if path:
            content = sealed({"compiled": dataclasses.asdict(compiled)})
            write_atomically(path, json.dumps(content).encode())
