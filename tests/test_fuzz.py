"""Damaged input ends in an error that names a file, or in the right result: the short version of
`benchmarks/fuzz.py`, and what that counts as a failure."""

import json
import os
import random
import time

import pytest

from benchmarks import fuzz, fuzz_targets
from benchmarks.fuzz import Case, Judge, Outcome, Watched
from benchmarks.fuzz_mutations import change_value, damage
from benchmarks.fuzz_targets import Target, Used


@pytest.mark.parametrize("target", ["images", "checkpoint"])
def test_ten_of_the_seeds_end_well(target, tmp_path):
    judge, bad = Judge(), []
    for number in range(10):
        case = Case(str(tmp_path), target, 0, number)
        outcome = judge(case)
        if not outcome.is_good or outcome.seconds > fuzz.SECONDS:
            bad.append(fuzz.describe(case, outcome))
    assert not bad


# ---------------------------------------------------------------------------- what is counted


def used(folder, raised=None, content="0", identity="", wrong=()):
    """What a target comes to; a copy that is damaged is another than the first."""
    whole = (folder / "a.json").read_text() == '{"a": 1}'
    if raised is not None and not whole:
        raise raised(folder)
    return Used({"x": "0" if whole else content}, "" if whole else identity, () if whole else wrong)


@pytest.mark.parametrize(
    "kind, fields",
    [
        ("named error", {"raised": lambda folder: ValueError(f"{folder}/b: is bad")}),
        ("named error", {"raised": lambda _: KeyError("a.json: no field 'b'")}),
        ("unnamed error", {"raised": lambda _: KeyError("before")}),
        ("traceback", {"raised": lambda folder: TypeError(f"{folder}/a.json")}),
        ("same result", {}),
        ("silent difference", {"content": "1"}),
        ("other digest", {"content": "1", "identity": "another"}),
        ("silent difference", {"content": "1", "identity": "another", "wrong": ("a pair lost",)}),
    ],
)
def test_what_comes_of_a_case(kind, fields, tmp_path, monkeypatch):
    def make(folder, _):
        folder.mkdir()
        (folder / "a.json").write_text('{"a": 1}')

    target = Target(make, lambda folder, _: used(folder, **fields))
    monkeypatch.setitem(fuzz_targets.TARGETS, "images", target)
    assert Judge()(Case(str(tmp_path), "images", 0, 3)).kind == kind


def stuck():
    """Makes what hangs, takes memory, or dies, by the number of the case."""

    def judge(case):
        if case.number == 0:
            time.sleep(60)
        if case.number == 1:
            kept = bytearray(10**8)
            time.sleep(60 + len(kept))
        if case.number == 2:
            os._exit(3)
        return Outcome("same result", "", "")

    return judge


def test_what_hangs_takes_memory_or_dies_is_ended_and_told(tmp_path, monkeypatch):
    monkeypatch.setattr(fuzz, "SECONDS", 0.5)
    monkeypatch.setattr(fuzz, "BYTES", 10**12)
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.json").write_text('{"a": 1}')
    watched = Watched(tmp_path, stuck, "fork")
    try:
        kinds = []
        for number in (3, 0, 2, 1):
            if number == 1:
                monkeypatch.setattr(fuzz, "BYTES", 10**7)
            kinds.append(watched.run(Case(str(tmp_path), "images", 0, number)).kind)
        assert kinds == ["same result", "hang", "crash", "memory"]
    finally:
        watched.end()


def test_damage_is_of_the_seed_and_changes_a_file_or_two(tmp_path):
    done = []
    for name in ("one", "other", "third"):
        folder = tmp_path / name
        folder.mkdir()
        for i in range(4):
            (folder / f"{i}.json").write_text(json.dumps({"number": i, "texts": ["a", "b"]}))
        before = {path: path.read_bytes() for path in folder.iterdir()}
        done.append(damage(folder, random.Random(name == "third")))
        changed = [path for path in before if path.read_bytes() != before[path]]
        assert 1 <= len(changed) <= 2
    assert done[0] == done[1] != done[2]


def test_values_of_json_are_renamed_removed_retyped_or_made_huge():
    seen = set()
    for seed in range(200):
        value, told = change_value({"a": 1, "b": {"c": "x"}}, random.Random(seed))
        seen.add(told.split()[0])
        assert repr(value) != repr({"a": 1, "b": {"c": "x"}}) or "to" in told
    assert {"rename", "remove", "retype", "huge"} <= seen
