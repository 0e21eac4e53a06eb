import dataclasses
import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from etils import epath

from lrt_jax.reporting import completions
from lrt_jax.reporting.completions import Completion, CompletionsWriter, read_completions

TERMS = ("format", "accuracy", "listener")


def completion(**changes):
    row = Completion(
        pair_uid="set/7",
        image_keys=("aa", "bb"),
        swapped=True,
        caption="a café",
        member=3,
        text="<think>the first</think><answer>1</answer>",
        well_formed=True,
        choice=0,
        p_first=0.75,
        listener_p_first=0.5,
        terms={"listener": 0.5, "format": 1.0, "accuracy": 0.25},
        total=1.375,
        advantage=-0.5,
        tokens=12,
        truncated=False,
    )
    return dataclasses.replace(row, **changes)


def test_rows_come_back_with_a_column_for_every_term(tmp_path):
    path = CompletionsWriter(tmp_path, TERMS).write(12, [completion(), completion(member=4)])
    assert path == epath.Path(tmp_path / "completions" / "step-000012.parquet")
    table = pq.read_table(path)  # by any reader of parquet
    assert table.schema.remove_metadata() == completions.completions_schema(TERMS)
    assert table.to_pylist()[0] == {
        "step": 12,
        "pair_uid": "set/7",
        "image_keys": ["aa", "bb"],
        "swapped": True,
        "caption": "a café",
        "member": 3,
        "text": "<think>the first</think><answer>1</answer>",
        "well_formed": True,
        "choice": 0,
        "p_first": 0.75,
        "listener_p_first": 0.5,
        "total": 1.375,
        "advantage": -0.5,
        "tokens": 12,
        "truncated": False,
        "reward_format": 1.0,
        "reward_accuracy": 0.25,
        "reward_listener": 0.5,
    }


def test_schema_is_the_same_for_no_rows_and_without_a_listener(tmp_path):
    writer = CompletionsWriter(tmp_path, TERMS)
    writer.write(1, [])
    writer.write(2, [completion(listener_p_first=None)])
    assert read_completions(tmp_path, 1).schema == read_completions(tmp_path, 2).schema
    assert read_completions(tmp_path, 2)["listener_p_first"].to_pylist() == [None]


@pytest.mark.parametrize("change", [{"total": None}, {"terms": dict.fromkeys(TERMS)}])
def test_a_missing_value_is_refused(tmp_path, change):
    with pytest.raises((pa.ArrowInvalid, ValueError), match="non-nullable"):
        CompletionsWriter(tmp_path, TERMS).write(1, [completion(**change)])


@pytest.mark.parametrize("terms", [{"format": 1.0}, dict.fromkeys([*TERMS, "length"], 0.0)])
def test_other_reward_terms_than_the_run_s_are_named(tmp_path, terms):
    with pytest.raises(ValueError, match="set/7.*accuracy"):
        CompletionsWriter(tmp_path, TERMS).write(1, [completion(terms=terms)])
    assert not (tmp_path / "completions").exists()


def test_a_term_twice_is_refused(tmp_path):
    with pytest.raises(ValueError, match="different names"):
        CompletionsWriter(tmp_path, ["format", "format"])


def test_steps_are_read_in_order_also_beyond_six_digits(tmp_path):
    writer = CompletionsWriter(tmp_path, TERMS)
    for step in (1_000_000, 999_999, 5):
        writer.write(step, [completion()])
    assert read_completions(tmp_path)["step"].to_pylist() == [5, 999_999, 1_000_000]
    with pytest.raises(FileNotFoundError, match="step-000006"):
        read_completions(tmp_path, 6)


def test_what_others_put_beside_them_is_not_read(tmp_path):
    workdir = tmp_path / "run[1]"  # which is no pattern either
    CompletionsWriter(workdir, TERMS).write(5, [completion()])
    for name in ("step-best.parquet", "step-5.parquet", "step-000006.parquet.txt"):
        (workdir / "completions" / name).write_text("mine")
    assert read_completions(workdir)["step"].to_pylist() == [5]
    assert read_completions(workdir, 5)["step"].to_pylist() == [5]


def test_an_interrupted_write_leaves_the_old_file_and_no_new_one(tmp_path, monkeypatch):
    writer = CompletionsWriter(tmp_path, TERMS)
    writer.write(1, [completion()])
    monkeypatch.setattr(os, "replace", lambda unfinished, path: 1 / 0)
    for step in (1, 2):
        with pytest.raises(ZeroDivisionError):
            writer.write(step, [completion(), completion()])
    assert read_completions(tmp_path)["step"].to_pylist() == [1]
