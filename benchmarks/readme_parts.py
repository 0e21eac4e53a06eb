"""What makes the tables, outputs and pictures of the pages: the registry of `benchmarks.readme`."""

import dataclasses
import itertools
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from benchmarks import plan_tables

WORK = "work"  # folder of a part that DIR in its commands stands for
RECORD = "record.json"
UNSAID = ("accuracy as reward model", "contradiction, argmax", "first position", "unparsed")

Maker = Callable[[Path], str]  # a block's text, from the folder of its part


@dataclasses.dataclass(frozen=True)
class Part:
    """Something that commands make, and where it is shown.

    Attributes:
      commands: as one would type them, by the name of the file that their output is kept in. DIR
        stands for a folder of the part's own, FOLDER and FILE for a gallery and captions in
        LRT_TEST_DATA, PYTHON for an interpreter with TRL.
      minutes: that they take on two cores, about.
      blocks: how each block of each page is made.
      files: pictures and whole pages, by path in the checkout, and what they are in DIR.
      writes: pages that the commands write themselves.
      needs: libtpu, LRT_TEST_DATA or peer_python.
      resumes: whether a command that was killed goes on; else the part is begun anew.
      told: what is in the output of a command that has ended, whatever its exit code is.
    """

    commands: Mapping[str, str]
    minutes: float
    blocks: Mapping[str, Mapping[str, Maker]] = dataclasses.field(default_factory=dict)
    files: Mapping[str, str] = dataclasses.field(default_factory=dict)
    writes: Sequence[str] = ()
    needs: str = ""
    resumes: bool = False
    told: str = ""

    @property
    def makes(self) -> list[str]:
        """Its pages with their blocks, and its files."""
        pages = [f"{page} ({', '.join(blocks)})" for page, blocks in self.blocks.items()]
        return [*pages, *self.files, *self.writes]


# ---------------------------------------------------------------------------- makers of blocks


def table(number: int, without: Sequence[str] = ()) -> Maker:
    """The table of that number that a command printed, but for rows with some titles."""

    def make(folder: Path) -> str:
        groups = itertools.groupby(_lines(folder), lambda line: line.startswith("|"))
        found = [[*lines] for is_table, lines in groups if is_table]
        if number >= len(found):
            raise LookupError(f"{len(found)} tables, and number {number + 1} is wanted")
        rows = found[number]
        left_out = tuple(f"| {title}" for title in without)
        return "\n".join(row for row in rows if not row.startswith(left_out))

    return make


def line(text: str, more: int = 0) -> Maker:
    """The last line with a text that a command printed, and so many more behind it."""

    def make(folder: Path) -> str:
        lines = _lines(folder)
        places = [number for number, one in enumerate(lines) if text in one]
        if not places:
            raise LookupError(f"no line has {text!r}")
        return "\n".join(lines[places[-1] : places[-1] + 1 + more])

    return make


def commit(folder: Path) -> str:
    """Which commit the commands ran at."""
    return f"Commit {', '.join(_record(folder)['commits'])}."


def joined(*makers: Maker) -> Maker:
    """Several below one another."""
    return lambda folder: "\n\n".join(make(folder) for make in makers)


def _lines(folder: Path, name: str = "out") -> list[str]:
    return (folder / f"{name}.out").read_text(encoding="utf-8").splitlines()


def _record(folder: Path) -> dict:
    return json.loads((folder / RECORD).read_text())


def _excerpt(lines: Sequence[str], kept: Callable[[str], bool]) -> str:
    """Lines as an output in Markdown; dots stand where some between others are left out."""
    groups = [(is_kept, [*some]) for is_kept, some in itertools.groupby(lines, kept)]
    while groups and not groups[0][0]:
        groups.pop(0)
    while groups and not groups[-1][0]:
        groups.pop()
    shown = [some if is_kept else ["..."] for is_kept, some in groups]
    return "\n".join(["```", *itertools.chain(*shown), "```"])


def output(folder: Path) -> str:
    """All that a command printed."""
    return _excerpt(_lines(folder), lambda line: True)


def run_output(folder: Path) -> str:
    """What the README's run prints, of its steps the first, one about the tenth, and the last."""
    text = "\n".join(_lines(folder)).replace(str(folder / WORK), "runs/imagereward")
    lines = text.strip().splitlines()
    steps = {int(x[1]): x[0] for x in map(re.compile(r"step (\d+)/.*").fullmatch, lines) if x}
    shown = {min(steps), min(step for step in steps if step >= min(10, max(steps))), max(steps)}
    left_out = {line for step, line in steps.items() if step not in shown}
    return _excerpt(lines, lambda line: line not in left_out)


def plan_output(folder: Path) -> str:
    """What the README shows of a plan: pieces of a step, memory and seconds."""
    words = ("piece ", "rollout ", "listener ", "reference ", "update ", "memory:", "step:")
    return _excerpt(_lines(folder, "text"), lambda line: line.startswith(words))


def plan_of_preset(folder: Path) -> str:
    """The plan of the 7B preset, and the versions that it is by."""
    return plan_tables.preset_plan(folder, _record(folder)["versions"])


# ---------------------------------------------------------------------------- the registry

_INTERRUPTIONS = "python -m benchmarks.interruptions --workdir=DIR"
_SIGNALS = " --signals=SIGTERM,SIGINT --runs=6 --times=3 --seed=2"
_CAUGHT = "the others tests caught"
_CAPTION = "a small green square on the left above a large blue cross in the middle"
_IMAGES = "examples/images/a.png,examples/images/b.png"
_SAME_BITS = joined(line("runs end in the same bits"), table(0))

PARTS: Mapping[str, Part] = {
    "bad_input": Part(
        {"out": "LRT_WRITE_DOCS=1 python -m pytest -q tests/test_bad_input.py"},
        minutes=1,
        writes=["docs/bad_input.md"],
    ),
    "score": Part(
        {"out": f'lrt score --model=tiny --images={_IMAGES} --caption="{_CAPTION}"'},
        minutes=1,
        blocks={"README.md": {"output": output}},
    ),
    "comparisons": Part(
        {"out": "python -m benchmarks.comparisons --pairs=32"},
        minutes=4,
        blocks={"docs/inference.md": {"speed": joined(table(0), line("Batch against batch"))}},
    ),
    "rankings": Part(
        {"out": "python -m benchmarks.comparisons --parts=ranks --groups=16 --gallery=FOLDER"},
        minutes=4,
        blocks={"docs/inference.md": {"taus": table(0)}},
        needs="LRT_TEST_DATA",
    ),
    "run": Part(
        {
            "out": "python -m lrt_jax.main --config=configs/imagereward.py --workdir=DIR",
            "pairs": "python -m lrt_jax.prepare --inspect=DIR/data",
        },
        minutes=4,
        blocks={"README.md": {"output": run_output}},
        files={"docs/curves.png": "curves.png", "docs/prepared_pairs.png": "data/pairs.png"},
    ),
    "first_step": Part(
        {"out": "python -m benchmarks.first_step --workdir=DIR"},
        minutes=4,
        blocks={
            "README.md": {"sentence": line("has taken its first", more=1)},
            "docs/mesh.md": {"starts": table(0)},
        },
    ),
    "parity": Part(
        {"out": "python -m benchmarks.trl_parity --peer-python PYTHON --out DIR/grpo_parity.md"},
        minutes=3,
        files={"docs/grpo_parity.md": "grpo_parity.md"},
        needs="peer_python",
    ),
    "likeness": Part(
        {"out": "python -m benchmarks.likeness --images=FOLDER/images --captions=FILE"},
        minutes=10,
        blocks={
            "docs/preparing.md": {"pictures": table(0), "plain": table(1), "captions": table(2)}
        },
        needs="LRT_TEST_DATA",
    ),
    "data_loading": Part(
        {"out": "python -m benchmarks.data_pipeline --output=DIR"},
        minutes=15,
        blocks={
            "docs/data_loading.md": {"speed": table(0), "stages": table(1), "memory": table(2)}
        },
        files={"docs/data_loading.png": "data_loading.png"},
    ),
    "loading_memory": Part(
        {"out": "python -m benchmarks.loading_memory --output=DIR"},
        minutes=5,
        blocks={"docs/mesh.md": {"memory": table(0)}},
    ),
    "learning": Part(
        {"out": "python -m benchmarks.learning --workdir=DIR"},
        minutes=18,
        blocks={
            "README.md": {"means": table(0, without=UNSAID)},
            "docs/learning.md": {"means": table(0), "seeds": table(1), "difference": table(2)},
        },
        resumes=True,
    ),
    "task_search": Part(
        {"out": "python -m benchmarks.task_search --workdir=DIR"},
        minutes=18,
        blocks={"docs/learning.md": {"grid": table(0)}},
        resumes=True,
    ),
    "int8_sampling": Part(
        {"out": "python -m benchmarks.int8_sampling --workdir=DIR"},
        minutes=18,
        blocks={"docs/sampling.md": {"drift": table(0), "seeds": table(1), "difference": table(2)}},
        resumes=True,
    ),
    "killed": Part(
        {"out": _INTERRUPTIONS},
        minutes=30,
        blocks={"docs/interruptions.md": {"runs": _SAME_BITS}},
    ),
    "stopped": Part(
        {"out": _INTERRUPTIONS + _SIGNALS},
        minutes=15,
        blocks={"docs/interruptions.md": {"runs": _SAME_BITS}},
    ),
    "fuzz": Part(
        {"out": "python -m benchmarks.fuzz --workdir=DIR --cases=300"},
        minutes=45,
        blocks={"docs/damage.md": {"cases": joined(commit, table(0), line("cases failed"))}},
    ),
    "plans": Part(
        plan_tables.COMMANDS,
        minutes=60,
        blocks={
            "README.md": {"output": plan_output},
            "docs/tpu.md": {
                "preset": plan_of_preset,
                "machines": plan_tables.machines,
                "prefix": plan_tables.prefix,
            },
            "docs/sampling.md": {"int8": plan_tables.sampling},
            "launch/README.md": {"sizes": plan_tables.sizes},
        },
        needs="libtpu",
        resumes=True,
    ),
    "mutants": Part(
        {
            "out": "python -m benchmarks.mutants --workdir=DIR --json=DIR/mutants.jsonl --resume",
        },
        minutes=180,
        blocks={"docs/damage.md": {"faults": joined(commit, line(_CAUGHT))}},
        resumes=True,
        told=_CAUGHT,
    ),
}
