"""What comes of the pieces of a plan: the step, its cost, and whether it fits."""

import dataclasses
import json

import pytest

from lrt_jax.planning.plan import Plan, assumptions
from lrt_jax.planning.table import plan_table
from lrt_jax.planning.topology import Topology
from tests.planning.made import figures
from tests.planning.test_remedies import config

pytestmark = pytest.mark.usefixtures("unchecked")


def made(*pieces, left_out=(), **changes) -> Plan:
    """Every piece takes two seconds."""
    pieces = pieces or (
        *(figures("rollout", temporaries=5.0), figures("update", temporaries=9.0)),
        figures("eval_copy", evaluates=True, temporaries=1.0),
        figures("eval_rollout", evaluates=True, temporaries=4.0),
    )
    run = config(**{"steps": 900, "eval.pairs": 64, "eval.batch_size": 32} | changes)
    mesh = {"data": 1, "fsdp": 2, "tensor": 4}
    return Plan(run, Topology("v5e:2x4"), mesh, pieces, left_out, ["a note"])


def called(plan: Plan, name: str, calls: int) -> Plan:
    """With a piece that a step calls so often."""
    changed = [
        dataclasses.replace(x, piece=dataclasses.replace(x.piece, calls=calls))
        if x.piece.name == name
        else x
        for x in plan.figures
    ]
    return dataclasses.replace(plan, figures=changed)


def test_a_step_is_its_pieces_as_often_as_they_are_called():
    assert made().step_seconds == 4.0
    assert called(made(), "update", 3).step_seconds == 8.0
    assert called(made(), "update", 3).wire_seconds == 1.0


def test_an_evaluation_copies_once_and_does_the_rest_for_every_batch():
    assert made().evaluation_seconds == 2.0 + 4 * 2.0  # 128 rows by 32
    assert made(**{"eval.pairs": 0}).evaluation_seconds is None  # nobody knows how many


@pytest.mark.parametrize("pairs", [0, 64])
def test_a_note_says_where_evaluations_are_in_no_cost(pairs):
    """Of all pairs, which only the data count."""
    found = [note for note in assumptions(config(**{"eval.pairs": pairs}), []) if "eval" in note]
    if pairs:
        assert not found
    else:
        [note] = found
        assert note.startswith("eval.pairs=0: ") and "--config.eval.pairs=N" in note


@pytest.mark.parametrize(("every", "count"), [(0, 2), (200, 6), (300, 4), (1000, 2)])
def test_evaluations_of_a_run(every, count):
    """Before it, every so many steps, and at its end."""
    assert made(**{"eval.every": every}).evaluations == count


def test_the_cost_of_a_run():
    found = made(**{"eval.every": 0}).cost(pairs=64_000)
    hours = 8 * (900 * 4.0 + 2 * 10.0) / 3600
    assert found["chip_hours"] == pytest.approx(hours, rel=1e-3)
    assert found["dollars"] == pytest.approx(hours * 1.2, rel=1e-3)
    assert found["pairs_per_second"] == 16.0
    assert found["dollars_per_1000_pairs"] == pytest.approx(
        1000 / 64 * 8 * 4 / 3600 * 1.2, rel=1e-3
    )
    assert found["epoch_dollars"] == pytest.approx(1000 * 8 * 4 / 3600 * 1.2, rel=1e-3)


def test_of_some_pieces_alone_there_is_no_step():
    plan = made(left_out=["listener"])
    assert plan.step_seconds is None and plan.cost() is None
    assert plan.to_dict()["partial"] and "partial, without listener" in plan_table(plan)


def test_a_tenth_of_the_memory_stays_free():
    assert made(figures("update", temporaries=14.1)).fits
    assert not made(figures("update", temporaries=14.3)).fits


def test_a_piece_that_would_not_compile_does_not_fit():
    small = figures("update", temporaries=1.0)
    refused = dataclasses.replace(small.compiled, refused="no", program=None)
    plan = made(dataclasses.replace(small, compiled=refused, seconds=None))
    assert not plan.fits and plan.step_seconds is None
    assert plan.to_dict()["pieces"][0]["refused"] == "no"
    assert "step:" not in plan_table(plan)


def test_what_is_written_is_json():
    written = json.loads(json.dumps(made().to_dict(pairs=1000)))
    assert written["hbm_gib_peak"] == 9.0 and written["hbm_peak_at"] == "update"
    assert written["fits"] and written["remedies"] == [] and written["notes"] == ["a note"]
    assert written["flops_per_chip"] == 2e13 and written["mesh"]["tensor"] == 4


def test_the_table_says_what_to_change():
    page = plan_table(made(figures("update", temporaries=18.0, parameters=1.0)))
    assert "memory: 19.0 GiB at update, of 14.2 (15.75 but for a tenth): does not fit" in page
    assert "  temporaries 18.00, parameters 1.00" in page
    assert "  change: update: loss.microbatches=2 makes about 14.0 GiB of 19.0" in page


def test_the_table_is_for_people():
    lines = plan_table(made()).splitlines()
    columns = "piece compiling s HBM GiB of it own seconds of peak bound by wire GB wire s"
    assert " ".join(lines[0].split()) == columns
    assert len({len(line) for line in lines[:5]}) == 1
    assert "step: 4.0 s predicted, plus 0.5 s of wire" in "\n".join(lines)


def test_what_was_not_understood_stands_in_a_note():
    unsure = dataclasses.replace(figures("update", temporaries=1.0), unknown_kernels=("my_sort",))
    assert "note: update: not in its figures: {'kernels': ['my_sort']}" in plan_table(made(unsure))
