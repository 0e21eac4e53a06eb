"""The command score, on a stub model but for the files that it writes."""

import json

import numpy as np
import pytest
from absl import flags
from PIL import Image

from lrt_jax import evaluate, score, serve
from lrt_jax.cli import commands
from lrt_jax.parallel.processes import EndTogether
from tests.inference.stub import stub_model


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Runs the command in a folder with four images, and gives what it prints."""
    pixels = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    for name, image in zip("abcd", pixels, strict=True):
        Image.fromarray(image).save(tmp_path / f"{name}.png")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(commands, "start", lambda: None)
    monkeypatch.setattr(score, "open_reward_model", lambda values: stub_model()[0])

    def run(*arguments: str) -> str:
        values = flags.FlagValues()
        score.define_flags(values)
        values(["score", "--model=tiny", *arguments])
        score.main(values)
        return capsys.readouterr().out

    return run


def test_two_images_are_compared(run):
    page = run("--caption=two cats", "--images=a.png,b.png").splitlines()
    assert page[0] == "two cats"
    chances = {line.split()[1]: float(line.split()[0]) for line in page[2:4]}
    assert [*chances] == ["a.png", "b.png"] and sum(chances.values()) == pytest.approx(1)
    assert page[5].startswith("agreement of the two orders ") and page[6].startswith("listener: ")
    assert [x.split(":")[0] for x in page if "given, " in x] == ["as given", "swapped"]

    found = json.loads(run("--caption=two cats", "--images=a.png,b.png", "--json"))
    assert found["images"] == ["a.png", "b.png"] and len(found["readings"]) == 2
    assert round(found["probability"], 4) == chances["a.png"]
    assert (
        found["probability"]
        == stub_model()[0].compare(caption="two cats", first="a.png", second="b.png").probability
    )


def test_more_images_are_ranked(run):
    page = run("--caption=two cats", "--images=a.png,b.png,c.png,d.png").splitlines()
    rows = [line.split() for line in page[4:8]]
    assert [row[0] for row in rows] == ["1", "2", "3", "4"]
    assert [row[1] for row in rows] == sorted((row[1] for row in rows), reverse=True)
    assert {row[2] for row in rows} == {"a.png", "b.png", "c.png", "d.png"}
    assert [row[3 + i] for i, row in enumerate(rows)] == ["-"] * 4
    assert "6 comparisons, each in both orders" in page

    anchored = ("--method=anchors", "--anchors=1", "--json")
    found = json.loads(run("--caption=two cats", "--images=a.png,b.png,c.png,d.png", *anchored))
    assert found["comparisons"] == 3 == len(found["verdicts"])
    assert all(len(verdict["images"]) == 2 for verdict in found["verdicts"])


def test_a_file_is_scored_and_bad_rows_give_an_exit_code(run, tmp_path):
    good = {"caption": "a cat", "first": "a.png", "second": "b.png"}
    (tmp_path / "rows.jsonl").write_text(json.dumps(good) + "\n")
    scored = ("--input=rows.jsonl", "--output=scores.jsonl")
    assert run(*scored) == "1 rows\nscores: scores.jsonl\n"
    assert run(*scored, "--json") == '{"output": "scores.jsonl", "rows": 1, "bad": 0}\n'
    with pytest.raises(ValueError, match="another scoring: votes 1, not 2"):
        run(*scored, "--votes=2")
    (tmp_path / "rows.jsonl").write_text(json.dumps(good | {"first": "e.png"}) + "\n")
    with pytest.raises(EndTogether) as caught:
        run("--input=rows.jsonl", "--output=others.parquet")
    assert caught.value.code == 1


@pytest.mark.parametrize("module, own", [(score, "caption"), (serve, "host"), (evaluate, "split")])
def test_flags_that_commands_share_are_in_the_help_of_each(module, own):
    values = flags.FlagValues()
    module.define_flags(values)
    owners = {x.name: name for name, them in values.flags_by_module_dict().items() for x in them}
    shared = {"model", "listener", "dtype", "batch_size", "max_prompt_tokens"} & {*values}
    assert "model" in shared and {owners[name] for name in shared} == {owners[own]}


@pytest.mark.parametrize(
    "arguments, told",
    [
        ((), "nothing to score: give --caption and --images, or --input and --output"),
        (("--caption=a", "--input=x"), "--caption, --input: give --caption and --images, or"),
        (("--caption=a", "--images=a.png"), "--images: name at least two"),
        (("--input=no.csv", "--output=x.jsonl"), "no.csv: no such file"),
        (("--input=a.csv", "--output=gs://b/x.jsonl"), "--output=gs://b/x.jsonl: name a path of"),
        (("--input=a.csv", "--output=x.jsonl", "--anchors=1"), "--anchors: only three and more"),
        (("--caption=a", "--images=a,b", "--method=anchors"), "--method: only three and more"),
        (("--caption=a", "--images=a,b,c", "--anchors=1"), "--anchors=1: add --method=anchors"),
    ],
)
def test_flags_that_do_not_go_together_are_told(arguments, told, run):
    with pytest.raises((ValueError, FileNotFoundError), match=told):
        run(*arguments)
