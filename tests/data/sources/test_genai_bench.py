"""GenAI-Bench's votes on image generation, as published."""

import pytest

from lrt_jax.data.sources import SourceError, read_groups, read_source
from tests.data.sources.made import image, shown, table


def row(first, second, vote="leftvote", prompt="p", **more):
    fields = {"prompt": prompt, "left_model": f"model {first}", "left_image": image(first)}
    fields |= {"right_model": f"model {second}", "right_image": image(second), "vote_type": vote}
    return fields | more


def test_four_kinds_of_votes(tmp_path):
    votes = ("leftvote", "rightvote", "tievote", "bothbad_vote")
    rows = [row(f"l{i}", f"r{i}", vote) for i, vote in enumerate(votes)] + [
        row("x", "y", prompt="q")
    ]
    table(tmp_path / "image_generation/test-00000-of-00001.parquet", rows)
    data = read_source("genai_bench", tmp_path)
    first, second = data.groups
    assert (first.group_id, first.prompt, first.split) == ("test-0", "p", "test")
    assert first.pairs == ((0, 1, 1, 0), (2, 3, 0, 1), (4, 5, 0.5, 0.5), (6, 7, 0.5, 0.5))
    assert first.generators[:2] == ("model l0", "model r0")
    assert (second.group_id, second.pairs) == ("test-1", ((0, 1, 1, 0),))
    assert first.criterion == "overall"
    assert shown(tmp_path, data.groups)[0][:4] == [b"l0", b"r0", b"l1", b"r1"]
    assert data.notes == ("1 votes that both images are bad count as ties",)


def test_other_tasks_and_the_earlier_state_are_passed_over(tmp_path):
    table(tmp_path / "image_generation/test-00000-of-00001.parquet", [row("a", "b")])
    table(tmp_path / "image_generation/test_v1-00000-of-00001.parquet", [row("c", "d")])
    table(tmp_path / "image_edition/test-00000-of-00001.parquet", [{"instruct_prompt": "x"}])
    data = read_source("genai_bench", tmp_path)
    assert shown(tmp_path, data.groups) == [[b"a", b"b"]]
    assert data.notes == ("the votes of test_v1 are not read beside those of test",)


def test_the_earlier_state_alone(tmp_path):
    table(tmp_path / "image_generation/test_v1-00000-of-00001.parquet", [row("c", "d")])
    assert shown(tmp_path, read_groups("genai_bench", tmp_path)) == [[b"c", b"d"]]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"vote_type": "upvote"}, r"record 1: field 'vote_type' is 'upvote'; expected one of left"),
        ({"vote_type": None}, r"field 'vote_type' is None"),
        ({"left_model": None}, r"field 'left_model' is None"),
    ],
)
def test_bad_rows(tmp_path, changed, message):
    table(tmp_path / "image_generation/test-0.parquet", [row("a", "b"), row("c", "d") | changed])
    with pytest.raises(SourceError, match=message):
        read_groups("genai_bench", tmp_path)


def test_a_folder_of_something_else(tmp_path):
    with pytest.raises(SourceError, match="give the folder of GenAI-Bench"):
        read_groups("genai_bench", tmp_path)
    table(tmp_path / "test.parquet", [{"question": "x"}])
    with pytest.raises(
        SourceError, match="lacks the columns prompt, left_image, right_image, left"
    ):
        read_groups("genai_bench", tmp_path)
