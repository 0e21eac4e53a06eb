"""The closing table and the picture, from figures made up here."""

import numpy as np
from PIL import Image

from lrt_jax.algorithms.grpo import GRPO
from lrt_jax.algorithms.sft import SFT
from lrt_jax.reporting.curves import draw_curves
from lrt_jax.reporting.results import LATER, OTHER_ROWS, ROWS, result_rows, results_table


def evaluation(**changes):
    fields = dict.fromkeys((field for _, field in ROWS), 0.5)
    return {**fields, "accuracy_ci95": [0.45, 0.55], "unparsed": 3, "pairs": 512, **changes}


def test_the_table_tells_before_after_and_the_paired_change():
    gains = {
        "accuracy": {"gain": 0.125, "ci95": [-0.01, 0.2]},
        "accuracy_reward_model": {"gain": 0.0, "ci95": [-0.01, 0.01]},
        "unparsed_share": {"gain": -0.006, "ci95": [-0.0125, 0.0]},
    }
    unknown = {"trace_truth": None, "trace_truth_greedy": None}
    results = {
        "split": "validation",
        "before": evaluation(**unknown),
        "after": evaluation(accuracy=0.625, **unknown, unparsed_share=0.0, gains=gains),
    }
    lines = results_table(results).splitlines()
    assert lines[0].split() == ["before", "after", "change"]
    sampled = next(line for line in lines if line.startswith("accuracy, sampled"))
    assert sampled.split(maxsplit=2)[2].split() == (
        [".500", "[.450,", ".550]", ".625", "[.450,", ".550]", "+.125", "[-.010,", "+.200]"]
    )
    greedy = next(line for line in lines if line.startswith("accuracy, greedy"))
    assert greedy.split() == ["accuracy,", "greedy", ".500", ".500"]
    assert not any("trace truth" in line for line in lines)  # nobody knows it
    unparsed = next(line for line in lines if line.startswith("unparsed"))
    assert unparsed.split()[2:] == [".500", ".000", "-.006", "[-.013,", "+.000]"]
    reward_model = next(line for line in lines if line.startswith("accuracy as reward model"))
    assert reward_model.split()[-3:] == ["+.000", "[-.010,", "+.010]"]
    assert lines[1] == "512 pairs of split 'validation'"
    assert lines[-1].startswith("both orders of every pair; 95 % intervals by caption")
    assert max(map(len, lines)) <= 100


WIDEST = {"gain": -3.5, "ci95": [-3.625, -3.375], "paired": 1021, "unpaired": 3}


def test_further_splits_follow_the_main_one_with_the_rows_that_matter_there():
    gains = {field: WIDEST for _, field in ROWS}
    intervals = {f"{field}_ci95": [0.45, 0.55] for _, field in ROWS}
    compared = {
        "before": evaluation(**intervals, pairs=384),
        "after": evaluation(**intervals, gains=gains),
    }
    splits = {"test_combinations": compared, "test_objects": compared}
    lines = results_table({"split": "validation", **compared, "splits": splits}).splitlines()
    headings = [i for i, line in enumerate(lines) if " pairs of split " in line]
    assert [lines[i] for i in headings] == [
        "384 pairs of split 'validation'",
        "384 pairs of split 'test_combinations'",
        "384 pairs of split 'test_objects'",
    ]
    first, second, third = headings
    assert second - first == len(ROWS) + 2 and third - second == len(OTHER_ROWS) + 2
    titles = [title for title, _ in OTHER_ROWS]
    assert titles == [
        *("accuracy, sampled", "accuracy, greedy", "accuracy as reward model"),
        *("trace truth, sampled", "trace truth, greedy", "unparsed predictions"),
    ]
    rows = zip(titles, lines[second + 1 : third - 1], strict=True)
    assert all(line.startswith(title) for title, line in rows)
    assert max(map(len, lines)) <= 100
    assert all("] -" in line and " ." in line for line in lines[first + 1 : second - 1])


def test_results_of_an_earlier_version_have_fewer_rows():
    known = {name: x for name, x in evaluation().items() if name not in LATER}
    results = {"split": "validation", "before": known, "after": known | {"gains": {}}}
    lines = results_table(results).splitlines()
    assert sum(" .500" in line for line in lines) == len(ROWS) - len(LATER)
    assert {"unparsed_share", "held_out_accuracy_greedy", "listener_accuracy_alone"} <= LATER


def test_changes_that_are_no_difference_of_the_columns_say_so():
    gains = {
        "accuracy": {"gain": 0.1, "ci95": [0.05, 0.15], "paired": 1006, "unpaired": 0},
        "contradiction_rate": {"gain": -0.1, "ci95": None, "paired": 1021, "unpaired": 3},
        "listener_confidence": {"gain": 0.1, "ci95": [0.0, 0.2], "paired": 1003, "unpaired": 3},
        "contradiction_soft": {"gain": None, "ci95": None, "paired": 0, "unpaired": 9},
        "no row of the table": {"gain": 0.1, "ci95": None, "paired": 1, "unpaired": 1},
    }
    results = {"split": "test", "before": evaluation(), "after": evaluation(gains=gains)}
    lines = results_table(results).splitlines()
    marked = [line.split("  ")[0] for line in lines[:-1] if line.endswith("*")]
    assert marked == ["listener's confidence", "contradiction, argmax"]
    assert lines[-1] == (
        "* over the 1,003 to 1,021 predictions with a value both times; the columns are over all "
        "of theirs"
    )
    assert max(map(len, lines)) <= 100
    ends = {len(line.rstrip("*")) for line in lines if "+.100 [" in line}
    assert len(ends) == 1  # the mark moves no figure
    only = {"contradiction_rate": gains["contradiction_rate"]}
    results["after"]["gains"] = only
    assert "* over the 1,021 predictions" in results_table(results)


def test_a_change_of_ten_and_more_is_written_whole():
    part = {field: None for _, field in ROWS}
    gains = {"trace_objects": {"gain": 10.5, "ci95": [-20.25, 0.5]}}
    [row] = result_rows({"before": part, "after": part | {"trace_objects": 1.0, "gains": gains}})
    assert row[-1] == "+10.500 [-20.250, +.500]"


def test_the_picture_holds_the_panels_of_which_something_is_known(tmp_path):
    rng = np.random.default_rng(0)
    steps = range(1, 31)
    metrics = [{"step": s, "reward/total/mean": 1 + s / 30 + rng.normal() / 10} for s in steps]
    evaluations = [{"step": s, "accuracy": 0.5 + s / 100, "trace_truth": None} for s in (0, 30)]
    one = draw_curves(tmp_path / "one", "a run", GRPO.panels, metrics, [])
    two = draw_curves(tmp_path / "two", "a run", GRPO.panels, metrics, evaluations)
    widths = []
    for path in (one, two):
        image = np.asarray(Image.open(path).convert("RGB"))
        widths.append(image.shape[1])
        assert (image != 255).any(axis=-1).mean() > 0.02  # not an empty sheet
    assert widths[1] == 2 * widths[0]


def test_the_picture_of_an_imitation(tmp_path):
    metrics = [{"step": s, "loss": 3.0 / s, "sure_of": 1 - 1 / s} for s in range(1, 5)]
    path = draw_curves(tmp_path, "a run", SFT.panels, metrics, [])
    assert Image.open(path).size[0] > 0 and path.name == "curves.png"
    assert [p.name for p in tmp_path.iterdir()] == ["curves.png"]
