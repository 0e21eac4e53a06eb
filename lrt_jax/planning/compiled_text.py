"""Reads the text of a program that XLA has compiled for a TPU: its cycles and its collectives.

The compiler notes an estimate of cycles beside each scheduled instruction. A loop's body is there
once; what stands in it counts as often as the loop turns. Of the branches of a condition the
longest counts. Pallas kernels have no estimate, and time on the wire is in none.
"""

import collections
import dataclasses
import functools
import math
import re
from collections.abc import Iterator, Sequence

BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s16": 2, "u16": 2, "s4": 0.5, "u4": 0.5}
BYTES |= {"f32": 4, "s32": 4, "u32": 4, "f64": 8, "s64": 8, "u64": 8}
BYTES |= dict.fromkeys(("f8e4m3fn", "f8e5m2", "f8e4m3b11fnuz"), 1)
BYTES |= {"token": 0}  # which orders instructions, and holds nothing
KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
KERNEL = "tpu_custom_call"  # what Pallas makes
NO_ESTIMATE = 10**12  # cycles from here on mean that the compiler has none

_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) .*\{\s*$")
_ARRAY = re.compile(r"\b([a-z]+\d*\w*)\[([\d,]*)\]")
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
_CALLED = re.compile(r"(?:calls|to_apply|called_computations)=\{?%?([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_TWO_BRANCHES = re.compile(r"(?:true|false)_computation=%?([\w.\-]+)")
_COLLECTIVE = re.compile(rf"= (.*?) (ragged-)?({'|'.join(KINDS)})(-start)?\(")
_OPERAND = re.compile(r"%[\w.\-]+")
_CHAIN = re.compile(r'chain_id="(\d+)"')
_KERNEL = re.compile(rf'%([\w.\-]+) = .*custom_call_target="{KERNEL}"')
_ROOT_BOUND = re.compile(r"ROOT \S+ = pred\[\]\S* compare\((.*?)\), direction=LT")
_BOUND = re.compile(r"= pred\[\]\S* compare\((.*?)\), direction=LT")
_CONSTANT = re.compile(r"%([\w.\-]+) = [su]32\[\]\S* constant\((\d+)\)")


@dataclasses.dataclass(frozen=True)
class Collective:
    """A collective of a compiled program.

    Attributes:
      kind: one of `KINDS`.
      group: how many devices take part; 0 where the text does not say it in a known form.
      size: bytes of its result on each device.
      times: how often it runs.
      unknown_arrays: arrays of its result that are not in `size`, for nobody knows their type.
    """

    kind: str
    group: int
    size: float
    times: int
    unknown_arrays: int = 0

    @property
    def wire(self) -> float:
        """Bytes that each device sends in all, by a ring of the group.

        Where nobody knows the group it is taken to be large.
        """
        others = (self.group - 1) / self.group if self.group else 1.0
        sent = {
            "all-reduce": 2 * others * self.size,
            "reduce-scatter": max(self.group - 1, 1) * self.size,  # the result is a share
            "collective-permute": self.size,
        }.get(self.kind, others * self.size)
        return sent * self.times


@dataclasses.dataclass(frozen=True)
class Program:
    """What a compiled text says.

    Attributes:
      cycles: of one device, wire and Pallas kernels left out.
      collectives: each once, with how often it runs.
      kernels: how often Pallas kernels run, by name.
      assumed_loops: loops that end by their data, and were given a number of turns.
      unknown_loops: loops of which nobody knows how often they turn; they count once.
      unknown_groups: collectives whose group could not be read.
      unknown_arrays: arrays that collectives send and whose type is not known; they count nothing.
      without_estimate: instructions, but for kernels, for which the compiler has no estimate.
    """

    cycles: float
    collectives: tuple[Collective, ...]
    kernels: dict[str, int]
    assumed_loops: int = 0
    unknown_loops: int = 0
    unknown_groups: int = 0
    unknown_arrays: int = 0
    without_estimate: int = 0


def read(text: str, turns: int | None = None) -> Program:
    """Reads the text of `jax.stages.Compiled.as_text`.

    Args:
      text: for a TPU.
      turns: of the loops that end by their data, such as those over tokens, all together: they
        follow one another and count on. None where there are none.

    Raises:
      ValueError: it has another form than is known here.
    """
    reader = _Reader(text, turns)
    times = reader.times()
    kernels: collections.Counter[str] = collections.Counter()
    found: dict[tuple[str, str], Collective] = {}
    cycles, without_estimate = 0.0, 0
    for name, lines in reader.computations.items():
        for line in lines if times[name] else ():
            own = _cycles(line)
            cycles += (own or 0) * times[name]
            kernel = _KERNEL.search(line)
            without_estimate += own is None and kernel is None
            if kernel:
                kernels[re.sub(r"[.\d]+$", "", kernel[1])] += times[name]
            if collective := _collective(name, line, times[name]):
                # One that runs beside other work stands in several computations, as one of a
                # chain. Channels tell less: those that `shard_map` makes may have one together.
                chain = _CHAIN.search(line)
                key = collective.kind, chain[1] if chain else line
                if key not in found or found[key].times < collective.times:
                    found[key] = collective
    collectives = tuple(found.values())
    return Program(
        cycles=cycles,
        collectives=collectives,
        kernels=dict(kernels),
        assumed_loops=reader.assumed_loops,
        unknown_loops=reader.unknown_loops,
        unknown_groups=sum(not x.group and x.kind != "collective-permute" for x in collectives),
        unknown_arrays=sum(x.unknown_arrays for x in collectives),
        without_estimate=without_estimate,
    )


class _Reader:
    """The computations of a text, and how often each runs."""

    def __init__(self, text: str, turns: int | None):
        self.computations, self.entry = _computations(text)
        self.assumed_loops = self.unknown_loops = 0
        self._rooms = self._token_loops(turns)
        self._calls = {name: [*self._called_by(name)] for name in self.computations}

    def times(self) -> collections.Counter[str]:
        """How often each computation runs."""
        callers = collections.Counter(x for calls in self._calls.values() for x, _ in calls)
        times = collections.Counter({self.entry: 1})
        ready = [name for name in self._calls if not callers[name]]
        while ready:
            name = ready.pop()
            for called, often in self._calls[name]:
                times[called] += times[name] * often
                callers[called] -= 1
                if not callers[called]:
                    ready.append(called)
        return times

    def _called_by(self, name: str) -> Iterator[tuple[str, int]]:
        """What a computation calls, and how often each time that it runs."""
        for line in self.computations[name]:
            if " while(" in line:
                turns = self._turns_of(line)
                yield _after("body=", line), turns
                yield _after("condition=", line), turns + 1
                continue
            branches = [x.strip().lstrip("%") for x in _among(_BRANCHES, line)]
            branches += _TWO_BRANCHES.findall(line)
            longest = max(branches, key=self._length, default=None)
            yield from ((branch, int(branch == longest)) for branch in branches)
            yield from ((called, 1) for called in _CALLED.findall(line))

    @functools.cache  # noqa: B019  (a reader lives as long as its text is read)
    def _length(self, name: str) -> float:
        """Cycles of a computation with all that it calls."""
        own = sum(_cycles(line) or 0 for line in self.computations[name])
        return own + sum(self._length(called) * often for called, often in self._called_by(name))

    def _turns_of(self, line: str) -> int:
        """How often a loop turns.

        As the compiler says, or by its condition where that is a comparison with a number; all
        loops here count from zero. Where it is more than that the data end the loop.
        """
        if known := re.search(r'known_trip_count":\{"n":"(\d+)"', line):
            return int(known[1])
        condition = "\n".join(self.computations[_after("condition=", line)])
        if _ROOT_BOUND.search(condition) and (bound := _bound(condition)) is not None:
            return bound
        room = _bound(condition)
        if room in self._rooms:
            self.assumed_loops += 1
            return self._rooms[room]
        self.unknown_loops += 1
        return 1

    def _token_loops(self, turns: int | None) -> dict[int, int]:
        """Turns of the loops that the data end, by their bounds.

        They count on where the one before has ended, up to `turns`; if none goes so far they are
        other loops than those that are meant.
        """
        whiles = [x for lines in self.computations.values() for x in lines if " while(" in x]
        conditions = ["\n".join(self.computations[_after("condition=", x)]) for x in whiles]
        ended = [x for x in conditions if not _ROOT_BOUND.search(x)]
        bounds = sorted({bound for x in ended if (bound := _bound(x)) is not None})
        if turns is None or turns not in bounds:
            return {}
        bounds = bounds[: bounds.index(turns) + 1]
        return {bound: bound - before for before, bound in zip([0, *bounds], bounds, strict=False)}


def _computations(text: str) -> tuple[dict[str, list[str]], str]:
    """Lines of each computation, and the name of the one that is entered first."""
    text = re.sub(r'\{\n"', '{"', text).replace('"\n}', '"}')  # configs are broken over lines
    found: dict[str, list[str]] = {}
    name, entry = None, ""
    for line in text.splitlines():
        if line.startswith("  ") and name is not None:
            found[name].append(line)
        elif begun := _COMPUTATION.match(line):
            name = begun[2]
            found[name] = []
            entry = name if begun[1] else entry
        elif line.startswith("}"):
            name = None
    if not entry:
        raise ValueError(f"no compiled program: {text[:200]!r}")
    return found, entry


def _bound(condition: str) -> int | None:
    """The number that a condition compares with."""
    constants = dict(_CONSTANT.findall(condition))
    for compared in _BOUND.findall(condition):
        for operand in re.findall(r"%([\w.\-]+)", compared):
            if operand in constants:
                return int(constants[operand])
    return None


def _cycles(line: str) -> int | None:
    """The compiler's estimate; 0 where there is none to make, None where it could make none."""
    found = _CYCLES.search(line)
    cycles = int(found[1]) if found else 0
    return cycles if cycles < NO_ESTIMATE else None


def _collective(computation: str, line: str, times: int) -> Collective | None:
    found = _COLLECTIVE.search(line)
    if not found:
        return None
    shapes, _, kind, started = found.groups()
    arrays = _ARRAY.findall(shapes)
    if started:
        arrays = _results(arrays, _operands(line[found.end() :]))
    sizes, group = [_size(*array) for array in arrays], _group(line)
    size = sum(size or 0.0 for size in sizes)
    if kind == "all-reduce" and computation.startswith("all-reduce-scatter"):
        # A fusion that scatters, although it is written as a sum of which a share is taken.
        kind, size = "reduce-scatter", size / max(group, 1)
    return Collective(kind, group, size, times, sizes.count(None))


def _results(arrays: Sequence[tuple[str, str]], operands: int) -> Sequence[tuple[str, str]]:
    """Those that come out, of the arrays in the type of what starts a collective.

    What goes in may stand before them, as many arrays as there are operands, and flags after them.
    """
    return arrays[operands : 2 * operands] if len(arrays) >= 2 * operands else arrays


def _operands(rest: str) -> int:
    """How many operands there are in what follows an opening bracket."""
    operands = re.split(r"\)(?:,|$)", rest)[0]  # layouts have brackets too
    return max(len(_OPERAND.findall(operands)), 1)


def _size(dtype: str, shape: str) -> float | None:
    """Bytes of an array; None where its type is not known."""
    if dtype not in BYTES:
        return None
    return BYTES[dtype] * math.prod(int(size) for size in shape.split(",") if size)


def _group(line: str) -> int:
    """How many devices take part in a collective; 0 where that is not said."""
    if found := re.search(r"replica_groups=\[\d+,(\d+)\]", line):
        return int(found[1])
    if found := re.search(r"replica_groups=mesh\[([^\]]*)\].*? \{([^}]*)\}", line):
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", found[1]))
        return math.prod(int(sizes[axis]) for axis in re.findall(r"'(\w+)'", found[2]))
    if found := re.search(r"replica_groups=\{\{([\d,]*)\}", line):
        return len(found[1].split(","))
    return 0


def _after(key: str, line: str) -> str:
    return re.search(rf"{key}%?([\w.\-]+)", line)[1]


def _among(pattern: re.Pattern, line: str) -> list[str]:
    found = pattern.search(line)
    return found[1].split(",") if found else []
