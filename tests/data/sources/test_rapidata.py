"""Rapidata's sets: counted votes, and weighted results of several criteria."""

import json
import math

import pyarrow as pa
import pytest

from lrt_jax.data.schema import FileRef
from lrt_jax.data.sources import SourceError, read_groups, read_source
from tests.data.sources.made import image, shown, table

PERSON = {"country": "Atlantis", "language": "Doric", "age": "0-17", "occupation": "Shepherd"}


def votes(**scores):
    """detailed_results: by the name of the image, its voters' scores."""
    return json.dumps(
        [
            {"votedFor": f"{name}.jpg", "userDetails": PERSON | {"userScores": {"global": score}}}
            for name, listed in scores.items()
            for score in listed
        ]
    )


def counted(prompt="p", names=("a", "b"), counts=(2, 1), details=None, **more):
    row = {"prompt": prompt, "image1": image(names[0]), "image2": image(names[1])}
    row |= {"votes_image1": counts[0], "votes_image2": counts[1]}
    row |= {"model1": f"model {names[0]}", "model2": f"model {names[1]}"}
    row |= {"detailed_results": details or votes(a=[0.5, 0.25], b=[1.0])}
    row |= {"image1_path": f"x/{names[0]}.jpg", "image2_path": f"x/{names[1]}.jpg"}
    return row | more


def test_counted_votes(tmp_path):
    root = tmp_path / "human-alignment-preferences-images"
    tie = counted(names=("b", "c"), counts=(1, 1), details=votes(c=[0.5], b=[0.25]))
    table(root / "data/train_0001-00000-of-00002.parquet", [counted(), counted("q")])
    table(root / "data/train_0002-00001-of-00002.parquet", [tie])
    data = read_source("rapidata", root)
    first, second = data.groups
    assert (first.group_id, first.prompt, first.split) == ("alignment-0", "p", None)
    assert first.pairs == ((0, 1, 2, 1), (2, 3, 1, 1))
    assert first.weighted == ((0.75, 1.0), (0.25, 0.5))
    assert first.generators == ("model a", "model b", "model b", "model c")
    assert first.criterion == second.criterion == "alignment"
    assert first.images[:2] == tuple(
        FileRef("data/train_0001-00000-of-00002.parquet", f"image{i}[0]") for i in (1, 2)
    )
    assert shown(root, data.groups) == [[b"a", b"b", b"b", b"c"], [b"a", b"b"]]
    assert data.notes == (
        "the criterion is 'alignment', by the folder's name 'human-alignment-preferences-images'",
    )
    assert not any(word in repr(data) for word in PERSON.values())


@pytest.mark.parametrize(
    ("name", "criterion"),
    [
        ("700k_Human_Preference_Dataset_FLUX_SD3_MJ_DALLE3", "overall"),
        ("human-style-preferences-images", "style"),
        ("Flux_SD3_MJ_Dalle_Human_Coherence_Dataset", "coherence"),
    ],
)
def test_the_folder_says_the_criterion(tmp_path, name, criterion):
    table(tmp_path / name / "train.parquet", [counted()])
    assert read_groups("rapidata", tmp_path / name)[0].criterion == criterion


@pytest.mark.parametrize(
    "details",
    [
        "not JSON",
        "{}",
        votes(a=[1.0]),  # other votes than those counted
        votes(a=[1.0], b=[1.0], c=[1.0]),
        json.dumps([{"votedFor": "a.jpg"}] * 3),
    ],
)
def test_votes_stay_without_their_weights(tmp_path, details):
    table(tmp_path / "t.parquet", [counted(details=details), counted()])
    data = read_source("rapidata", tmp_path)
    (group,) = data.groups
    assert group.pairs == ((0, 1, 2, 1), (2, 3, 2, 1))
    assert all(map(math.isnan, group.weighted[0])) and group.weighted[1] == (0.75, 1.0)
    assert "1 pairs have no weighted votes: " in data.notes[1]


def test_names_are_told_by_their_counts_without_paths(tmp_path):
    table(tmp_path / "t.parquet", [counted(image1_path=None, image2_path=None)])
    assert read_groups("rapidata", tmp_path)[0].weighted == ((0.75, 1.0),)


def weighted(shares=(0.75, 0.25), **more):
    details = votes(b=[0.5], a=[1.0, 0.5])
    row = {"prompt": "p", "image1": image("a"), "image2": image("b")}
    row |= {"model1": "m", "model2": "n"}
    for name in ("preference", "coherence", "alignment"):
        row |= {f"weighted_results_image{i}_{name}": shares[i - 1] for i in (1, 2)}
        row[f"detailed_results_{name}"] = details
    return row | more


FLOATS = {
    f"weighted_results_image{i}_{name}": pa.float32()
    for i in (1, 2)
    for name in ("preference", "coherence", "alignment")
}


def test_weighted_results_give_a_group_for_each_criterion(tmp_path):
    other = weighted() | {
        "weighted_results_image1_alignment": 0.25,
        "weighted_results_image2_alignment": 0.75,
    }
    table(tmp_path / "data/train-00000-of-00001.parquet", [weighted(), other], **FLOATS)
    data = read_source("rapidata", tmp_path)
    assert [group.criterion for group in data.groups] == ["overall", "alignment", "coherence"]
    overall, alignment, _ = data.groups
    assert overall.group_id == "overall-0"
    assert overall.pairs == ((0, 1, 2, 1), (2, 3, 2, 1))
    assert alignment.pairs == ((0, 1, 2, 1), (2, 3, 1, 2))
    assert overall.weighted == ((1.5, 0.5), (1.5, 0.5))
    assert alignment.weighted == ((1.5, 0.5), (0.5, 1.5))
    assert overall.images == alignment.images
    assert overall.generators == ("m", "n", "m", "n")
    assert data.notes == ("criteria, by their columns: overall, alignment, coherence",)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (counted(counts=(-1, 2)), r"record 0: field 'votes_image1' is -1; expected a count"),
        (counted(counts=(0.5, 1.5)), r"field 'votes_image1' is 0.5; expected a count"),
        (counted(counts=(math.nan, 1.0)), r"field 'votes_image1' is nan; expected a finite"),
        (counted(counts=(None, 1)), r"field 'votes_image1' is None; expected int or float"),
        (counted(prompt=""), r"field 'prompt' is empty"),
        (weighted((0.5, 0.1)), r"'weighted_results_preference' is .* expected two shares"),
        (weighted((0.4, 0.6)), r"does not say which image got which votes; the shares are"),
        (weighted(detailed_results_coherence="["), r"'detailed_results_coherence' is not JSON"),
    ],
)
def test_bad_rows(tmp_path, row, message):
    table(tmp_path / "t.parquet", [row])
    with pytest.raises(SourceError, match=message):
        read_groups("rapidata", tmp_path)


def test_a_bad_row_of_several_criteria_is_told_once(tmp_path):
    table(tmp_path / "t.parquet", [weighted(prompt=" "), weighted(), weighted(prompt="")])
    data = read_source("rapidata", tmp_path, skip_bad=True)
    assert len(data.bad_records) == 2 and len(data.groups) == 3
    with pytest.raises(SourceError, match=r"record 0: field 'prompt' is empty.* \(1 more\)"):
        read_groups("rapidata", tmp_path)


def test_columns_that_are_missing_or_unknown(tmp_path):
    table(tmp_path / "t.parquet", [counted(mood="x")])
    assert "columns that are not read: mood" in read_source("rapidata", tmp_path).notes
    table(tmp_path / "t.parquet", [{"prompt": "p", "image1": image("a")}])
    with pytest.raises(
        SourceError, match="lacks the columns image2, votes_image1, votes_image2; it has prompt,"
    ):
        read_groups("rapidata", tmp_path)


def test_a_folder_of_something_else(tmp_path):
    with pytest.raises(SourceError, match=r"no \*\.parquet"):
        read_groups("rapidata", tmp_path)
