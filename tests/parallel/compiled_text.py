"""Reads the text of a compiled program: its loops, what they move between devices, its arrays."""

import dataclasses
import math
import re
from collections.abc import Iterator

COLLECTIVES = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
_HEADER = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?[\w.\-]+ = (\(.*?\)|\S+) ([a-z][\w\-]*)\(")
_ALONE = re.compile(r"replica_groups=\{\{\d+\}(,\{\d+\})*\}")
_ARRAY = re.compile(r"\b(?:pred|[a-z]+\d+\w*)\[([\d,]*)\]")
_CALLED = re.compile(
    r"(?:body|condition|calls|to_apply|true_computation|false_computation|branch_computations"
    r"|called_computations)=(?:\{([^}]*)\}|%?([\w.\-]+))"
)


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line.

    Attributes:
      kind: such as `dot`, `while` or `all-gather`.
      shapes: of the results, one for each array of a tuple; of one device.
      called: names of the computations that it runs.
      line: itself.
    """

    kind: str
    shapes: tuple[tuple[int, ...], ...]
    called: tuple[str, ...]
    line: str

    @property
    def largest(self) -> int:
        """Elements of its largest result."""
        return max(map(math.prod, self.shapes), default=0)


Program = dict[str, list[Instruction]]


def parse(text: str) -> Program:
    """Instructions by the name of their computation.

    Raises:
      ValueError: nothing was found: the text has another form than is known here.
    """
    program: Program = {}
    for line in text.splitlines():
        if header := _HEADER.match(line):
            program[header[1]] = lines = []
        elif found := _INSTRUCTION.match(line):
            shapes = tuple(_shape(dims) for dims in _ARRAY.findall(found[1]))
            lines.append(Instruction(found[2], shapes, tuple(_called(line)), line.strip()))
    if not program or not any(program.values()):
        raise ValueError(f"no instructions in {text[:200]!r}")
    return program


def loops(program: Program) -> list[list[Instruction]]:
    """All that each loop runs: its condition, its body, and whatever these call."""
    whiles = [x for lines in program.values() for x in lines if x.kind == "while"]
    return [list(_run_by(program, loop.called, set())) for loop in whiles]


def collectives(instructions: list[Instruction]) -> list[Instruction]:
    """What moves data between devices; of an asynchronous pair, the start.

    Those of groups of one device move nothing.
    """
    names = (*COLLECTIVES, *(f"{kind}-start" for kind in COLLECTIVES))
    return [x for x in instructions if x.kind in names and not _ALONE.search(x.line)]


def largest_array(program: Program) -> Instruction:
    """The result with the most elements, tuples taken apart."""
    return max((x for lines in program.values() for x in lines), key=lambda x: x.largest)


def _run_by(program: Program, names, seen: set[str]) -> Iterator[Instruction]:
    for name in names:
        if name not in seen:
            seen.add(name)
            for instruction in program[name]:
                yield instruction
                yield from _run_by(program, instruction.called, seen)


def _called(line: str) -> Iterator[str]:
    for several, one in _CALLED.findall(line):
        yield from (name.strip().lstrip("%") for name in (several or one).split(","))


def _shape(dims: str) -> tuple[int, ...]:
    return tuple(int(size) for size in dims.split(",") if size)
