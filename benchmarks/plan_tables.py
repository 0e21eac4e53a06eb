"""What the pages say of plans: tables of what `lrt_jax.plan --json` printed, run by run."""

import json
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path

from benchmarks.learning import markdown
from lrt_jax.config.presets import preset_config
from lrt_jax.planning.topology import CHIPS, GIB

MACHINES = {  # preset, topology, fields
    "7b-v5e-8x8": ("7b", "v5e:8x8", ""),
    "7b-v6e-8x8": ("7b", "v6e:8x8", ""),
    "7b-v5p-4x4x4": ("7b", "v5p:4x4x4", ""),
    "7b-v5p-8x8x8": ("7b", "v5p:8x8x8", "batch_size=512 eval.batch_size=512"),
    "3b-v5e-2x4": ("3b", "v5e:2x4", "batch_size=8 eval.batch_size=32"),
    "3b-v5e-4x8": ("3b", "v5e:4x8", ""),
    "3b-v6e-2x4": ("3b", "v6e:2x4", "loss.microbatches=2"),
}
SIZES = (  # of launch/README.md: model, TYPE, CONFIG, and the plan
    ("7B", "`v5litepod-64`", "`configs/imagereward.py:7b`", "7b-v5e-8x8"),
    ("7B", "`v6e-64`", "the same", "7b-v6e-8x8"),
    ("7B", "`v5p-128`", "the same", "7b-v5p-4x4x4"),
    ("3B", "`v5litepod-32`", "`configs/imagereward.py:3b`", "3b-v5e-4x8"),
    ("3B", "`v6e-8`", "the same with `--config.loss.microbatches=2`", "3b-v6e-2x4"),
    ("3B", "`v5litepod-8`", "the same with `--config.batch_size=8`", "3b-v5e-2x4"),
)
TRY = ["tiny", "`v5litepod-1`, MODE=on-demand", "`configs/imagereward.py:tiny`"]
TRY += ["next to nothing", "-", "1.20"]
NAMES = {
    "copy": "copy, to the sampling layout",
    "reference_listener": "reference and listener",
    "eval_encode": "evaluation's encode",
    "eval_rollout": "evaluation's rollout",
    "eval_listener": "evaluation's listener",
}
FEW = "--pieces=copy,rollout"
REPEATED = "batch_size=512 group_size=1 loss.microbatches=8 rewards.advantage_scale=none"
SHARED = ("encode", "rollout", "reference_listener", "update")
SAMPLED = {
    "full (bfloat16)": "7b-v5e-8x8",
    "int8": "int8",
    "full, `attn_dp=1`": "one",
    "int8, `attn_dp=1`": "one-int8",
}


def _command(preset: str, topology: str, fields: str = "", *more: str) -> str:
    flags = [f"--config=configs/imagereward.py:{preset}", f"--topology={topology}", *more]
    flags += [f"--config.{field}" for field in fields.split()]
    return " ".join(["python -m lrt_jax.plan", *flags, "--json"])


_FIRST = "7b", "v5e:8x8"
COMMANDS = {
    **{name: _command(*machine) for name, machine in MACHINES.items()},
    "int8": _command(*_FIRST, "sampling.weights=int8"),
    "one": _command(*_FIRST, "mesh.attn_dp=1", FEW),
    "one-int8": _command(*_FIRST, "sampling.weights=int8 mesh.attn_dp=1", FEW),
    "repeated": _command(*_FIRST, REPEATED),
    "text": _command(*_FIRST).removesuffix(" --json"),
}


def read_plan(folder: Path, name: str) -> dict:
    """What a command printed, with its pieces by name."""
    plan = json.loads((folder / f"{name}.out").read_text())
    return plan | {"pieces": {piece["name"]: piece for piece in plan["pieces"]}}


def preset_plan(folder: Path, versions: Mapping[str, str]) -> str:
    """The 7B preset on 64 chips: what was compiled, a table of its pieces, what they come to."""
    plan, int8 = read_plan(folder, "7b-v5e-8x8"), read_plan(folder, "int8")
    config = preset_config("7b")
    mesh = " x ".join(f"{axis} {size}" for axis, size in plan["mesh"].items() if size > 1)
    head = (
        f"jax {versions['jax']}, libtpu {versions['libtpu']}; {config.batch_size} pairs x "
        f"{config.group_size} completions of {config.max_completion_length} tokens, two images of "
        f"{config.data.max_patches:,} patches, prompts of {config.data.prompt_tokens:,} tokens; "
        f"mesh {mesh}."
    )
    rows = [["piece", "HBM GiB, of it its own", "predicted ms", "of peak", "bound by"]]
    rows[0] += ["wire GB", "wire s"]
    pieces = [x for x in plan["pieces"].values() if x["name"] != "eval_copy"]
    rows += [[NAMES.get(x["name"], x["name"]), *_figures(x)] for x in pieces]
    tail = (
        f"It fits: {plan['hbm_gib_peak']:.1f} GiB at the {plan['hbm_peak_at']}, of "
        f"{plan['hbm_gib_usable']:.1f}. A step is {plan['step_seconds']:.1f} s, and up to "
        f"{plan['wire_seconds']:.1f} s of wire more as far as nothing overlaps; "
        f"{config.steps:,} steps with their evaluations are "
        f"{plan['cost']['chip_hours']:,.0f} chip hours without it. With "
        f"`--config.sampling.weights=int8` a rollout takes {_ms(int8, 'rollout')} ms, the copy "
        f"{_ms(int8, 'copy')}, and a step {int8['step_seconds']:.1f} s."
    )
    return "\n\n".join([_wrapped(head), markdown(rows), _wrapped(tail)])


def machines(folder: Path) -> str:
    """A row for each of `MACHINES`."""
    columns = ("", "`--config.`", "HBM GiB", "update, ms", "of peak", "reference and listener, ms")
    rows = [[*columns, "rollout, ms", "step, s", "wire GB, s"]]
    for name, (preset, topology, fields) in MACHINES.items():
        plan = read_plan(folder, name)
        wire = sum(piece["wire_gb"] * piece["calls"] for piece in _step(plan))
        row = [f"`:{preset}` {topology}", f"`{fields}`" if fields else "-"]
        row += [_memory(plan, "hbm_gib_usable"), _ms(plan, "update")]
        row += [f"{100 * plan['pieces']['update']['share_of_peak']:.0f} %"]
        row += [_ms(plan, "reference_listener"), _ms(plan, "rollout")]
        rows.append(
            [*row, f"{plan['step_seconds']:.1f}", f"{wire:.0f}, {plan['wire_seconds']:.1f}"]
        )
    return markdown(rows)


def sizes(folder: Path) -> str:
    """What launch/README.md says of chips that should do."""
    columns = ["model", "TYPE", "CONFIG", "HBM per chip, GiB", "a step, s"]
    rows = [[*columns, "USD an hour, on demand"]]
    for model, kind, config, name in SIZES:
        plan = read_plan(folder, name)
        dollars = plan["chips"] * CHIPS[plan["topology"].partition(":")[0]].dollars
        row = [model, f"{kind}, {plan['chips']} chips", config, _memory(plan, "hbm_gib")]
        price = f"{dollars:.0f}" if dollars > 10 else f"{dollars:.1f}"
        rows.append([*row, f"{plan['step_seconds']:.1f}", price])
    return markdown([*rows, TRY])


def prefix(folder: Path) -> str:
    """What a shared prefix saves: the preset, and the same with groups of one."""
    plans = [read_plan(folder, name) for name in ("7b-v5e-8x8", "repeated")]
    rows = [["", "shared, PFLOP", "repeated, PFLOP", "shared, ms", "repeated, ms"]]
    for name in SHARED:
        flops = [f"{_total(plan, 'flops', name) / 1e15:.2f}" for plan in plans]
        rows.append([name, *flops, *(_ms(plan, name) for plan in plans)])
    flops = [_total(plan, "flops") / 1e15 for plan in plans]
    seconds = [_total(plan, "predicted_seconds") for plan in plans]
    whole = [*(f"{x:.1f}" for x in flops), *(f"{1000 * x:,.0f}" for x in seconds)]
    saved = (
        f"{flops[1] / flops[0]:.1f} times the operations, and {seconds[1] / seconds[0]:.1f} times "
        "the time, wire not counted."
    )
    return f"{markdown([*rows, ['whole step', *whole]])}\n\n{saved}"


def sampling(folder: Path) -> str:
    """What weights in int8 save, with the preset's layout to sample and with a simpler one."""
    plans = [read_plan(folder, name) for name in SAMPLED.values()]
    copies = [plan["pieces"]["copy"]["outputs_gib"] * GIB / 1e9 for plan in plans]
    rollouts = [plan["pieces"]["rollout"]["predicted_seconds"] for plan in plans]
    tokens = preset_config("7b").max_completion_length
    rows = [
        ["", *SAMPLED],
        ["the copy, GB a chip", *(f"{x:.2f}" for x in copies)],
        ["a rollout, s, its prompts included", *(f"{x:.2f}" for x in rollouts)],
        ["a token of it, ms", *(f"{1000 * x / tokens:.1f}" for x in rollouts)],
    ]
    return markdown(rows)


def _figures(piece: Mapping) -> Iterator[str]:
    own = piece["hbm_gib_peak"] - piece["resident_gib"]
    yield f"{piece['hbm_gib_peak']:.1f}, {own:.1f}"
    yield f"{1000 * piece['predicted_seconds']:,.0f}"
    yield f"{100 * piece['share_of_peak']:.0f} %" if piece["share_of_peak"] else "-"
    yield from (piece["bound_by"], f"{piece['wire_gb']:.1f}", f"{piece['wire_seconds']:.2f}")


def _memory(plan: Mapping, room: str) -> str:
    return f"{plan['hbm_gib_peak']:.1f} of {plan[room]:.1f}"


def _step(plan: Mapping) -> list[Mapping]:
    return [x for name, x in plan["pieces"].items() if not name.startswith("eval_")]


def _total(plan: Mapping, field: str, name: str = "") -> float:
    """Of one piece of a step, or of all, each as often as it is called."""
    return sum(x[field] * x["calls"] for x in _step(plan) if name in ("", x["name"]))


def _ms(plan: Mapping, name: str) -> str:
    return f"{1000 * _total(plan, 'predicted_seconds', name):,.0f}"


def _wrapped(text: str) -> str:
    return textwrap.fill(text, 100, break_long_words=False, break_on_hyphens=False)
