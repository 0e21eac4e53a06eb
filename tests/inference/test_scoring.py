"""Files of rows: whatever happens on the way, each row comes out once, in its place."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from lrt_jax.inference import scoring
from lrt_jax.inference.rows import RowsFile
from lrt_jax.inference.scoring import Scored, Scoring, job_of
from tests.inference.stub import stub_model
from tests.parallel.world import ROOT, World
from tests.patience import LONG

MODULE = "tests.inference.scoring_process"
BAD = {
    3: "{",
    50: json.dumps({"caption": "a cat", "first": "0.png", "second": "none.png"}),
    199: "",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Eight images, and 200 rows about them, of which three are bad."""
    folder = tmp_path_factory.mktemp("rows")
    pixels = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), dtype=np.uint8)
    for i, image in enumerate(pixels):
        Image.fromarray(image).save(folder / f"{i}.png")
    rows = [
        {"caption": f"scene {i}", "first": f"{i % 8}.png", "second": f"{i % 7}.png"}
        for i in range(200)
    ]
    lines = [BAD.get(i, json.dumps(row)) + "\n" for i, row in enumerate(rows)]
    (folder / "rows.jsonl").write_text("".join(lines))
    return folder


@pytest.fixture(scope="module")
def alone(folder) -> bytes:
    """What comes out where nothing happens."""
    assert score(folder / "rows.jsonl", folder / "alone.jsonl") == Scored(200, 3)
    return (folder / "alone.jsonl").read_bytes()


def score(rows: Path, output: Path, **job) -> Scored:
    return Scoring(RowsFile(rows), output, job).run(lambda: stub_model()[0])


def read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def left(output: Path) -> list[str]:
    """What lies beside an output and is named after it."""
    names = {path.name for path in output.parent.iterdir() if output.name in path.name}
    return sorted(names - {output.name})


# ---------------------------------------------------------------------------- interruptions


def test_killed_three_times_it_ends_in_the_same_bytes(folder, alone):
    output = folder / "killed.jsonl"
    command = [sys.executable, "-m", MODULE, folder / "rows.jsonl", output, "2", "6", "11"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=LONG)
    assert done.stdout == "Scored(rows=200, bad=3)\n", done.stderr
    assert output.read_bytes() == alone
    assert left(output) == ["killed.jsonl.job.json"]


def test_two_processes_score_it_together(folder, alone):
    output = folder / "together.jsonl"
    with World([MODULE, str(folder / "rows.jsonl"), str(output)], 2) as world:
        for index, ended in enumerate(world.wait()):
            assert ended.code == 0, ended.output
            assert f"{index} Scored(rows=200, bad=3)" in ended.output
    assert output.read_bytes() == alone


def test_it_goes_on_with_what_is_missing_alone(folder, alone, tmp_path, monkeypatch):
    monkeypatch.setattr(scoring, "PART", 64)
    model, reader = stub_model()
    answer = reader.read

    def failing(*batch):
        if len(reader.sizes) == 30:  # after 120 rows
            raise FloatingPointError
        return answer(*batch)

    output = tmp_path / "out.jsonl"
    start = Scoring(RowsFile(folder / "rows.jsonl"), output, {})
    monkeypatch.setattr(reader, "read", failing)
    with pytest.raises(FloatingPointError):
        start.run(lambda: model)
    assert left(output) == [".out.jsonl.parts"]
    monkeypatch.setattr(reader, "read", answer)
    reader.sizes.clear()
    assert start.run(lambda: model) == Scored(200, 3)
    assert sum(reader.sizes) == 200 - 64 - 1  # the last row is bad
    assert output.read_bytes() == alone


def test_what_is_done_is_not_done_again(folder, alone):
    output = folder / "alone.jsonl"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scoring, "merge", None)
        again = Scoring(RowsFile(folder / "rows.jsonl"), output, {})
        assert again.run(lambda: pytest.fail("the model is opened")) == Scored(200, 3)
    assert output.read_bytes() == alone


def test_other_outputs_are_refused_and_stay(folder, alone, tmp_path):
    rows, output = folder / "rows.jsonl", tmp_path / "out.jsonl"
    with pytest.raises(ValueError, match="out.txt: its name must end in .jsonl or .parquet"):
        score(rows, tmp_path / "out.txt")
    output.write_text("mine")
    with pytest.raises(ValueError, match="out.jsonl: is there already, and not as this"):
        score(rows, output)
    assert output.read_text() == "mine" and left(output) == []
    output.unlink()
    score(rows, output, votes=1)
    with pytest.raises(ValueError, match="job.json: is of another scoring: votes 1, not 2; name"):
        score(rows, output, votes=2)
    assert output.read_bytes() == alone
    output.write_bytes(alone[:-2] + b"\n")
    with pytest.raises(ValueError, match="out.jsonl: is there already, and not as this"):
        score(rows, output, votes=1)
    output.write_bytes(alone)
    record = output.with_name("out.jsonl.job.json")
    record.write_text(record.read_text().replace('"bad": 3', '"bad": 0'))
    with pytest.raises(ValueError, match="job.json: .*changed or damaged.*; name another --output"):
        score(rows, output, votes=1)


def test_an_output_that_somebody_writes_meanwhile_is_refused_and_stays(folder, tmp_path):
    start = Scoring(RowsFile(folder / "rows.jsonl"), tmp_path / "out.jsonl", {})

    def opening():
        (tmp_path / "out.jsonl").write_text("mine")
        return stub_model()[0]

    for _ in range(2):  # and so again
        with pytest.raises(ValueError, match="out.jsonl: is there already, and not as this"):
            start.run(opening)
        assert (tmp_path / "out.jsonl").read_text() == "mine"


def test_a_file_that_becomes_shorter_is_told(folder, tmp_path):
    rows = RowsFile(folder / "rows.jsonl")
    cut = tmp_path / "rows.jsonl"
    cut.write_bytes(rows.path.read_bytes())
    rows = RowsFile(cut)
    cut.write_bytes(b"".join(cut.read_bytes().splitlines(keepends=True)[:7]))
    with pytest.raises(ValueError, match="rows.jsonl: has 7 rows, and had 200 when it was opened"):
        list(rows.read([range(5), range(5, 10)]))


def test_parts_of_another_scoring_are_refused(folder, tmp_path):
    rows, output = folder / "rows.jsonl", tmp_path / "out.jsonl"
    with pytest.raises(ZeroDivisionError):
        Scoring(RowsFile(rows), output, {"votes": 1}).run(lambda: 1 // 0)
    with pytest.raises(ValueError, match="parts/job.json: is of another scoring: votes 1, not 2"):
        score(rows, output, votes=2)


def test_a_job_names_what_answers_depend_upon(folder, tmp_path):
    rows = RowsFile(folder / "rows.jsonl")
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    one = job_of(rows, {"model": model, "listener": None}, votes=1)
    (model / "lrt_jax.json").write_text("{}")
    other = job_of(RowsFile(rows.path, tmp_path), {"model": model, "listener": None}, votes=2)
    changed = {name for name in one if one[name] != other[name]}
    assert changed == {"model", "image_root", "votes"} and one["listener"] is None


# ---------------------------------------------------------------------------- rows


def test_bad_rows_keep_their_place_with_their_error(alone, folder):
    rows = read(folder / "alone.jsonl")
    assert [row["row"] for row in rows] == [*range(200)]
    bad = {row["row"]: row for row in rows if row["error"] is not None}
    assert [*bad] == [*BAD]
    assert bad[3]["error"].startswith("not JSON (") and bad[199]["error"] == "an empty line"
    assert "second '" in bad[50]["error"] and "no such file" in bad[50]["error"]
    assert bad[50]["caption"] == "a cat" and bad[50]["probability"] is None
    good = rows[8]
    assert good["first"] == "0.png" and 0 <= good["probability"] <= 1
    assert len(good["traces"]) == len(good["swapped_traces"]) == 1 and good["error"] is None
    assert rows[0]["probability"] == 0.5  # of an image and itself


def test_kinds_of_files_give_the_same_answers(alone, folder):
    rows = [row for row in read(folder / "alone.jsonl") if row["row"] < 3]
    names = ("caption", "first", "second")
    with open(folder / "rows.csv", "w", newline="", encoding="utf-8-sig") as file:
        table = csv.writer(file)
        table.writerow(["id", *names])
        table.writerows([row["row"], *(row[name] for name in names)] for row in rows)
    plain = [{name: row[name] for name in names} for row in rows]
    pq.write_table(pa.Table.from_pylist(plain), folder / "rows.parquet")
    packed = [
        {
            "caption": row["caption"],
            "first": {"bytes": (folder / row["first"]).read_bytes(), "path": row["first"]},
            "second": {"bytes": None, "path": row["second"]},
        }
        for row in rows
    ]
    pq.write_table(pa.Table.from_pylist(packed), folder / "packed.parquet")
    for name in ("rows.csv", "rows.parquet", "packed.parquet"):
        output = folder / f"{name}.scores.parquet"
        assert score(folder / name, output) == Scored(3, 0)
        assert pq.read_table(output).to_pylist() == rows


def test_paths_are_relative_to_the_image_root(folder, tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"caption": "a cat", "first": "0.png", "second": "1.png"}) + "\n")
    [row] = RowsFile(path).read([range(1)])
    assert row.request["first"] == tmp_path / "0.png"
    [row] = RowsFile(path, folder).read([range(1)])
    assert row.request["first"] == folder / "0.png" and row.names["first"] == "0.png"


@pytest.mark.parametrize(
    "line, told",
    [
        ("[1]", "holds a list, not an object"),
        (" ", "an empty line"),
        ('{"caption": "a", "first": "", "second": "1.png"}', "first '': no such file"),
        ('{"caption": "0.png", "first": "0.png", "second": "1.png"}', "'0.png' is an image file"),
        ("[" * 100_000, "not JSON"),
        ('{"caption": "a", "first": "0.png"}', "no second; a row has caption, first, second"),
        ('{"caption": 3, "first": "0.png", "second": "1.png"}', "caption: expected a text"),
        ('{"caption": "a", "first": 7, "second": "1.png"}', "first: int is no image"),
        ('{"caption": "a", "first": {"x": 1}, "second": "1.png"}', "first: dict is no image"),
        ('{"caption": "\\ud800", "first": "0.png", "second": "1.png"}', "surrogates not allowed"),
    ],
)
def test_what_is_wrong_with_a_row_is_told(line, told, folder, tmp_path):
    path, output = tmp_path / "rows.jsonl", tmp_path / "out.parquet"
    path.write_text(line)
    rows = Scoring(RowsFile(path, folder), output, {})
    assert rows.run(lambda: stub_model()[0]) == Scored(1, 1)
    [row] = pq.read_table(output).to_pylist()
    assert told in row["error"]


@pytest.mark.parametrize(
    "name, content, told",
    [
        ("a.txt", b"", "a.txt: not a kind of file that is read; take .jsonl, .csv, .parquet"),
        ("a.csv", b"caption,first\n", "a.csv: there must be one column second; it has caption, f"),
        ("a.csv", b"", "a.csv: there must be one column .*; it has none. Name the caption"),
        ("a.csv", b'caption,first,second\na,b,"c\n', "a.csv:2: unexpected end of data; mend"),
        ("b.csv", b'caption,first,second\na,b,c\n"c"x,b,c\n', "b.csv:3: .* expected after"),
        ("a.parquet", b"PAR1", "a.parquet: cannot be used"),
    ],
)
def test_a_file_that_cannot_be_read_is_told(name, content, told, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=told):
        RowsFile(tmp_path / name)
    with pytest.raises(FileNotFoundError, match="no.jsonl: no such file"):
        RowsFile(tmp_path / "no.jsonl")


def test_a_table_without_a_column_is_told_before_anything_is_made(tmp_path):
    pq.write_table(
        pa.table({"prompt": ["a"], "first": ["b"], "second": ["c"]}), tmp_path / "a.parquet"
    )
    with pytest.raises(
        ValueError, match="a.parquet: there must be one column caption; it has prom"
    ):
        RowsFile(tmp_path / "a.parquet")


def test_a_line_of_another_length_is_a_bad_row(folder):
    path = folder / "short.csv"
    lines = b"caption,first,second", b"a cat,0.png", b",0.png,1.png", b"\xff,0.png,1.png", b""
    path.write_bytes(b"\n".join(lines) + b"\n")
    assert score(path, folder / "short.jsonl") == Scored(4, 3)
    short, empty, broken, blank = read(folder / "short.jsonl")
    assert short["error"] == "2 cells, where the first line names 3"
    assert empty["caption"] == "" and empty["error"] is None
    assert "no text that Unicode knows" in broken["error"]
    assert blank["error"] == "an empty line"
