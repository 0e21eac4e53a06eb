"""The benchmarks run; what they measure is not tested."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from absl import flags

from benchmarks import (
    accelerator,
    data_pipeline,
    first_step,
    fuzz,
    grpo_step,
    int8_sampling,
    interruptions,
    learning,
    likeness,
    loading_memory,
)
from lrt_jax.evaluation.evaluator import MODES
from lrt_jax.reporting.results import ROWS
from tests.compiling import FAST
from tests.patience import LONG


def test_grpo_step_writes_its_stages(tmp_path):
    done = subprocess.run(
        [
            *(sys.executable, "-m", "benchmarks.grpo_step"),
            *("--prompts=2", "--group=2", "--completion=6", "--image_size=112", "--steps=1"),
            f"--json={tmp_path / 'out.json'}",
        ],
        capture_output=True,
        text=True,
        timeout=LONG,
        cwd=Path(__file__).parents[1],
        env=os.environ | {"XLA_FLAGS": FAST},
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads((tmp_path / "out.json").read_text())
    stages = [figures[f"{stage}_s"] for stage in ("rollout", "listener", "update")]
    assert figures["step_s"] >= max(stages) > 0
    assert figures["completion_tokens"] == 2 * 2 * 6 and figures["compilations"] == 0


def test_accelerator_writes_kernels_and_stages(tmp_path):
    root, figures = Path(__file__).parents[1], tmp_path / "out.json"
    done = subprocess.run(
        [root / "benchmarks/accelerator.sh", "--small", "--repeats=1", f"--json={figures}"],
        capture_output=True,
        text=True,
        timeout=LONG,
        env=os.environ | {"XLA_FLAGS": FAST},
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(figures.read_text())
    assert found["kernels"].keys() == {"causal", "group", "patches"}
    assert [*found["stages"]] == ["copy", "encode", "rollout", "reference", "update"]
    assert all(stage["seconds"] > 0 for stage in found["stages"].values())


def test_table_of_arms_over_seeds():
    none = {"gains": {}}

    def run(gain, seconds, listener=0.7):
        before = dict.fromkeys((field for _, field in ROWS), 0.5)
        after = before | {"accuracy": 0.5 + gain, "listener_confidence": listener}
        gains = {"accuracy": {"gain": gain, "ci95": [gain - 0.02, gain + 0.02]}}
        compared = {"before": before, "after": after | {"gains": gains}}
        other = {"test_objects": {"before": before | {"accuracy": 0.25}, "after": after | none}}
        return {"seconds": seconds, "split": "validation", "splits": other, **compared}

    arms = {"one": [run(0.1, 60), run(0.2, 120)], "other": [run(0.05, 90, None)] * 2}
    means, seeds, between, took = learning.table(arms).split("\n\n")
    assert means.splitlines()[:3] == [
        "| mean over seeds | warm start | one | gain | other | gain |",
        "|---|---|---|---|---|---|",
        "| accuracy, sampled | 0.500 | 0.650 | +0.150 | 0.550 | +0.050 |",
    ]
    assert "| listener's confidence | 0.500 | 0.700 |  |  |  |" in means
    assert "| accuracy, sampled, test_objects | 0.250 | 0.650 |  | 0.550 |  |" in means
    one = "+0.100 [+0.080, +0.120]; +0.200 [+0.180, +0.220]"
    other = "+0.050 [+0.030, +0.070]; +0.050 [+0.030, +0.070]"
    assert seeds.splitlines()[2:] == [f"| accuracy, sampled | {one} | {other} |"]
    # Student's t at .975 with one degree of freedom is 12.706, and the standard error .05.
    assert between.splitlines() == [
        "| difference of the gains | one - other | 95 % t-interval over seeds |",
        "|---|---|---|",
        "| accuracy, sampled | +0.100 | [-0.535, +0.735] |",
    ]
    assert took == "Each run took 1.0 to 2.0 minutes."


def test_data_loading_is_measured_and_drawn(tmp_path, monkeypatch):
    monkeypatch.setattr(data_pipeline, "LOADERS", [(1, 0), (2, 0)])
    prepared = data_pipeline.write_set(tmp_path / "data", 8, data_pipeline.SMALL)
    encoder = data_pipeline.make_encoder(64)
    rates = data_pipeline.measure(prepared, encoder, 1, 2)
    assert rates.keys() == {"1,0", "2,0"} and all(min(r) > 0 for r in rates.values())
    stages = data_pipeline.profile(prepared, encoder, 8)
    assert [*stages] == ["read", "decode", "resize and cut", "prompt", "batch"]
    figures = {
        "cores": 2,
        "pairs_per_second": {"square": rates, "mixed": {"1,0": [50.0, 60.0], "2,0": [99.0, 121.0]}},
        "ms_per_pair": {"square": stages},
        "memory": [data_pipeline.stream(prepared.folder, 16)],
        "v5e_64": data_pipeline.cores_for_v5e_64(64.0),
    }
    assert figures["v5e_64"]["cores"] == [0.067, 0.2]
    text = data_pipeline.tables(figures)
    assert "| 110.0 | 121.0 | 2.00 / 2.02 |" in text and "| 16 | " in text
    data_pipeline.draw(tmp_path / "chart.png", figures)
    assert (tmp_path / "chart.png").read_bytes().startswith(b"\x89PNG")


def test_memory_is_sampled_while_it_is_held():
    before = loading_memory.resident()
    with loading_memory.sampled() as seen:
        held = np.ones(64_000_000, np.uint8)
        for _ in range(20):
            held += 1  # long enough for a sample
    assert 60e6 < max(seen) - before < 100e6
    del held
    assert loading_memory.resident() - before < 20e6


def test_table_of_loading_shows_the_worst_process():
    best = {"held": 100e6, "peak": 105e6, "kernel_peak": 106e6, "after": 101e6, "seconds": 3.2}
    row = {"mesh": {"fsdp": 2, "tensor": 2}, "dtype": "float32"}
    processes = [best, best | {"peak": 120e6, "kernel_peak": 130e6}, best]
    lines = loading_memory.table([row | {"processes": processes}]).splitlines()
    assert lines[2:] == ["| fsdp=2 x tensor=2 | float32 | 100 | 120 | 1.20 | 1.30 | 3 |"]


def test_runs_with_weights_in_int8_are_compared_seed_by_seed():
    """Of ten predictions a run in int8 has one more right, or two."""

    def run(right: int, reward: float):
        rows = 10
        mode = {
            "choice": [int(row >= right) for row in range(rows)],
            "target": [1.0] * rows,
            "swapped": [False] * rows,
            **dict.fromkeys(("p_first", "listener_p_first", "margin", "rank_lead"), [0.5] * rows),
            **dict.fromkeys(("pair", "cluster", "prompt", "group"), [*range(rows)]),
        }
        figures = {"accuracy, sampled": right / rows, int8_sampling.REWARD: reward}
        steps = {name: right / 1e4 for name in int8_sampling.METRICS}
        return {"figures": figures, "steps": steps} | {"judgements": dict.fromkeys(MODES, mode)}

    runs = {"full": [run(6, 1.5), run(6, 1.5)], "int8": [run(7, 1.6), run(8, 1.8)]}
    drift, figures, change = int8_sampling.tables(runs).split("\n\n")
    assert drift.splitlines()[0].startswith("| weights | mean, nats | largest, nats | cut, ")
    assert drift.splitlines()[3].startswith("| int8 | 0.0007; 0.0008 | 0.0007; 0.0008 |")
    assert figures.splitlines()[2:] == [
        "| accuracy, sampled | 0.6; 0.6 | 0.7; 0.8 |",
        "| reward, last 10 steps | 1.5; 1.5 | 1.6; 1.8 |",
    ]
    _, _, sampled, greedy, reward = change.splitlines()
    assert sampled.startswith("| accuracy, sampled | +0.100 [") and "; +0.200 [" in sampled
    # Student's t at .975 with one degree of freedom is 12.706, and the standard error .05.
    assert sampled.endswith("| +0.150 | [-0.485, +0.785] |")
    assert greedy == sampled.replace("sampled", "greedy")
    assert reward == "| reward, last 10 steps | +0.100; +0.300 | +0.200 | [-1.071, +1.471] |"


def test_interrupted_runs_are_listed_with_their_settings():
    kill = interruptions.Met("SIGKILL after 1.0 s", 0.0)
    save = interruptions.Met("SIGINT after 2.0 s, writing step 2", 6.5)
    same, table = interruptions.summary([[kill, save], [kill]]).split("\n\n")
    assert same == "2 of 2 runs end in the same bits. The slowest end took 6.5 s."
    head, _, first, second = table.splitlines()
    assert head == "| run | updates a rollout | microbatches | loader workers | interruptions |"
    both = "SIGKILL after 1.0 s; SIGINT after 2.0 s, writing step 2, gone in 6.5 s"
    assert first == f"| 1 | 1 | 1 | 0 | {both} |"
    assert second == "| 2 | 1 | 1 | 2 | SIGKILL after 1.0 s |"
    assert interruptions.summary([[kill]]).startswith("1 of 1 runs end in the same bits.\n\n| run")


def test_failures_of_all_kinds_are_one_column_of_damage(capsys):
    kinds = [fuzz.ERROR, fuzz.SAME, *fuzz.BAD]
    cases = [fuzz.Case("", "images", 0, number) for number in range(len(kinds))]
    outcomes = [fuzz.Outcome(kind, "", "", 1.0, 2 * 10**9) for kind in kinds]
    with pytest.raises(SystemExit):
        fuzz.report([*zip(cases, outcomes, strict=True)])
    told = capsys.readouterr().out
    assert "| error that names the file | same result | other digest | failures |" in told
    assert f"| images | 1 | 1 | 0 | {len(fuzz.BAD)} |" in told
    assert "6 of 8 cases failed. The slowest case took 1.0 s, the largest process 2.00 GB." in told


def test_copies_of_pictures_are_told_as_the_page_writes_it(monkeypatch, capsys):
    monkeypatch.setattr(likeness, "COPIES", {"itself": lambda image, _: image})
    likeness.compare_pictures([*likeness.plain_pictures().values()][8:12])
    head, _, itself, others, *_ = capsys.readouterr().out.splitlines()
    assert head == "| copy | taken for the same | kept out of training |"
    assert itself == "| itself | 100.0 % | 100.0 % |" and others.startswith("| another picture (6 ")


def test_starts_with_and_without_kept_programs_are_compared():
    table, sentence = first_step.summary({"off": [40.0, 36.0], "kept": [28.0, 27.0]}).split("\n\n")
    assert table.splitlines()[2:] == [
        "| `--compilation_cache=off` | 40.0; 36.0 |",
        "| kept by an earlier start | 28.0; 27.0 |",
    ]
    assert "step after 28 s,\nor with `--compilation_cache=off` after 38 s." in sentence


@pytest.mark.parametrize("printed", ["step 1/100 reward 1.7", "no data"])
def test_a_start_ends_with_its_first_step_or_in_an_error(printed, tmp_path, monkeypatch):
    code = f"import sys, time; print({printed!r}, flush=True)"
    code += "; time.sleep(60)" if "step" in printed else ""
    monkeypatch.setattr(first_step, "COMMAND", (sys.executable, "-c", code))
    if "step" in printed:
        assert 0 < first_step.seconds_to_first_step(tmp_path, "one") < 60
    else:
        with pytest.raises(ValueError, match=f"took no step; {tmp_path}/one.err says why"):
            first_step.seconds_to_first_step(tmp_path, "one")


def parsed(command, *arguments: str) -> flags.FlagValues:
    values = flags.FlagValues()
    command.define_flags(values)
    values(["command", *arguments])
    return values


@pytest.mark.parametrize("command", [accelerator, grpo_step])
def test_a_file_that_is_there_or_cannot_be_is_refused_before_anything_is_timed(
    command, tmp_path, monkeypatch
):
    monkeypatch.setattr(command.commands, "start", lambda: pytest.fail("it began"))
    file = tmp_path / "figures.json"
    file.write_text("of another run")
    with pytest.raises(FileExistsError, match=f"--json={file}: is there; .* or remove it"):
        command.main(parsed(command, f"--json={file}"))
    assert file.read_text() == "of another run"
    nowhere = tmp_path / "no-folder/figures.json"
    with pytest.raises(FileNotFoundError, match=f"--json={nowhere}: .* no folder .*; make it"):
        command.main(parsed(command, f"--json={nowhere}"))


@pytest.mark.parametrize("error", [0.2, float("nan")])
def test_kernels_that_are_not_plain_attention_end_in_an_error(error, tmp_path, monkeypatch):
    """With their figures written, by which one can see how far they are from it."""
    kernels = {"causal": {"error": 0.01}, "group": {"error": error}}
    monkeypatch.setattr(accelerator.commands, "start", lambda: None)
    monkeypatch.setattr(accelerator, "time_kernels", lambda *_: kernels)
    monkeypatch.setattr(accelerator, "time_stages", lambda *_: {})
    file = tmp_path / "figures.json"
    with pytest.raises(ValueError, match=f"kernels: group is {error} from .* at most 0.05"):
        accelerator.main(parsed(accelerator, "--small", f"--json={file}"))
    assert "group" in json.loads(file.read_text())["kernels"]
    kernels["group"]["error"] = 0.05
    file.unlink()
    accelerator.main(parsed(accelerator, "--small", f"--json={file}"))


def test_one_number_that_is_none_makes_kernels_differ():
    """Wherever it stands among the results that are held against each other."""
    good, bad = np.ones(2), np.array([1.0, np.nan])
    for results in ([good, bad], [bad, good]):
        assert np.isnan(accelerator.largest_difference(results, [good, good]))
    assert accelerator.largest_difference([good * 1.5, good], [good, good]) == 0.5
