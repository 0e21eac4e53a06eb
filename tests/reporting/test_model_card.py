"""What a model card says of runs and sources that are made up here."""

import json
import shutil

import pytest
from huggingface_hub import ModelCard

from lrt_jax.algorithms import algorithm_of
from lrt_jax.assets import tiny_model
from lrt_jax.config import Config, parse_config
from lrt_jax.config.presets import preset_config
from lrt_jax.data.sources import SOURCES
from lrt_jax.reporting.model_card import model_card
from lrt_jax.reporting.results import ROWS

SETTINGS = {
    "lrt_jax": "1.2.3",
    "prompt": {"style": "reason"},
    "images": {"min_pixels": 3136, "max_pixels": 200704, "one_grid": True},
    "sampling": {"max_completion_length": 60, "temperature": 1.0, "top_p": 1.0},
    "listeners": [{"model": "Qwen/Qwen2.5-VL-7B-Instruct", "style": "judge", "share": 1.0}],
    "trained_from": {"model": "Qwen/Qwen2.5-VL-3B-Instruct", "from_scratch": False},
    "data": {"train_split": "train", "train_pairs": 1234},
}


def config(**changes) -> Config:
    values = preset_config("tiny")
    values.data.path = "anywhere"
    values.update_from_flattened_dict({"data.source": "hpdv2"} | changes)
    return parse_config(values)


def evaluation(**changes):
    fields = dict.fromkeys((field for _, field in ROWS), 0.5) | {"truncated": 0.25}
    return {**fields, "accuracy_ci95": [0.45, 0.55], "unparsed": 3, "pairs": 512, **changes}


def results(**changes):
    gains = {"accuracy": {"gain": 0.125, "ci95": [0.01, 0.2]}}
    after = evaluation(accuracy=0.625, gains=gains, **changes)
    return {"split": "test", "before": evaluation(), "after": after}


def written(config, settings, folder, results):
    """The text of a card, as an export has it."""
    shutil.copy(tiny_model() / "config.json", folder)
    method = algorithm_of(config).method(config)
    return model_card(config, settings, folder, method=method, step=40, results=results)


def card(folder, settings=SETTINGS, **changes) -> ModelCard:
    """The card, read back as the Hub's library reads it."""
    return ModelCard(written(config(**changes), settings, folder, results()))


def test_the_name_of_a_folder_is_text(tmp_path):
    name = "my`\n# <img src=x>"
    listener = SETTINGS["listeners"][0] | {"model": name}
    changed = {"trained_from": {"model": name, "from_scratch": False}, "listeners": [listener]}
    text = card(tmp_path, SETTINGS | changed, algorithm="listener_grpo").text
    assert "# my\\` # &lt;img src=x&gt;, " in text
    assert text.count("`my' # <img src=x>`") == 3
    assert "\n# <img" not in text


@pytest.mark.parametrize("source", SOURCES)
def test_every_source_is_named(source, tmp_path):
    text = card(tmp_path, **{"data.source": source}).text
    [line] = [line for line in text.splitlines() if line.strip().startswith(f"* `{source}`: ")]
    published = SOURCES[source].hub_id
    assert (f"published as [{published}]" in line) if published else "name" not in line


def test_metadata_of_a_model_of_the_hub(tmp_path):
    (tmp_path / "README.md").write_text(
        "---\nlicense: other\nlicense_name: qwen-research\nlicense_link: https://there\n---\n# x\n"
    )
    data = card(tmp_path).data
    assert data.base_model == "Qwen/Qwen2.5-VL-3B-Instruct"
    assert (data.license, data.license_name) == ("other", "qwen-research")
    assert data.license_link == "https://there"
    assert (data.library_name, data.pipeline_tag) == ("transformers", "image-text-to-text")
    assert data.datasets == ["ymhao/HPDv2"]
    assert {"reward-model", "grpo", "listener", "arxiv:2506.22832"} <= {*data.tags}
    assert {(x.dataset_type, x.dataset_split) for x in data.eval_results} == {
        ("ymhao/HPDv2", "test")
    }
    assert {x.metric_name: x.metric_value for x in data.eval_results}["accuracy, sampled"] == 0.625


@pytest.mark.parametrize(
    ("files", "licence", "text"),
    [
        ({}, "unknown", "which this comes from, states no licence that can be read: ask"),
        ({"README.md": "no metadata"}, "unknown", "states no licence"),
        ({"README.md": "---\nlicense: [\n---\n"}, "unknown", "states no licence"),
        ({"README.md": "---\nlicense:mit\n---\n"}, "unknown", "states no licence"),
        ({"README.md": "---\nlicense: mit\n---\n", "LICENSE": "x"}, "mit", "the licence: mit."),
        ({"README.md": "---\ntags: [a\nlicense: mit\n---\n"}, "mit", "the licence: mit."),
        ({"README.md": "---\n1: a\nlicense: mit\ntags:\n- b\n---\n"}, "mit", "licence: mit."),
        ({"README.md": "---\nlicense:\n  mit\ndate: 2024-99-99\n---"}, "mit", "licence: mit."),
        ({"README.md": "\ufeff---\r\nlicense: mit\r\n---\r\n# é"}, "mit", "licence: mit."),
        ({"LICENSE.txt": "Do as you like."}, "other", "the licence: other (LICENSE.txt)."),
    ],
)
def test_the_licence_is_the_sources_or_unknown(tmp_path, files, licence, text):
    for name, content in files.items():
        (tmp_path / name).write_bytes(content.encode())
    written = card(tmp_path)
    assert written.data.license == licence and text in written.text
    assert "Licences of the data, as published: hpdv2: Apache-2.0." in written.text


def test_a_card_in_another_encoding_is_read(tmp_path):
    text = "---\nlicense: other\nlicense_name: pr\u00eat\n---\nau caf\u00e9\n"
    (tmp_path / "README.md").write_bytes(text.encode("latin-1"))
    written = card(tmp_path)
    assert (written.data.license, written.data.license_name) == ("other", "pr\u00eat")


def test_the_prompts_that_a_run_was_given_are_those_of_its_card(tmp_path):
    question, judge = "Which has more {criterion}?", "It said this of {criterion}:\n"
    given = {"prompts.question": question, "prompts.judge_before": judge}
    text = card(tmp_path, **given).text
    assert text.count("\nWhich has more overall?\n") == 2  # of the reasoner and of the judge
    assert json.dumps("Which has more overall?\nCompare")[1:-1] in text  # of the code
    assert "It said this of overall:\n{reasoning}" in text
    assert "prefer for this caption" not in text
    assert "The wording is the run's own" in text
    assert "The wording is lrt_jax's own" in card(tmp_path).text


def test_a_folder_has_no_name_on_the_hub_but_may_come_from_one(tmp_path):
    settings = SETTINGS | {"trained_from": {"model": "mine", "from_scratch": False}}
    assert card(tmp_path, settings).data.base_model is None
    (tmp_path / "README.md").write_text("---\nbase_model: Qwen/Qwen2.5-VL-3B-Instruct\n---\n")
    assert card(tmp_path, settings).data.base_model == "Qwen/Qwen2.5-VL-3B-Instruct"
    fresh = SETTINGS | {"trained_from": {"model": "mine", "from_scratch": True}}
    written = card(tmp_path, fresh)
    assert written.data.base_model is None
    assert "From fresh weights in the sizes of `mine`" in written.text
    earlier = SETTINGS | {"trained_from": {"model": "mine", "fresh": True}}
    assert card(tmp_path, earlier).text == written.text


def test_figures_stand_with_their_intervals_and_where_they_come_from(tmp_path):
    text = card(tmp_path).text
    row = "| accuracy, sampled | .500 [.450, .550] | .625 [.450, .550] | +.125 [+.010, +.200] |"
    assert row in text
    assert "On 512 pairs of the split `test` of hpdv2, each in both orders" in text
    assert "3 of 1,024 samples had no readable answer; 25.0 % were cut at 72 tokens." in text
    assert "it chose the image shown first in .500 of its readable samples" in text
    assert "40 steps of 16 pairs x 8 completions, seed 0" in text
    assert "1,234 pairs of the split `train`, ties left out" in text


def test_further_splits_and_the_held_out_listener_are_named(tmp_path):
    measured = results()
    compared = {"before": evaluation(pairs=384), "after": evaluation(accuracy=0.25, gains={})}
    measured["splits"] = {"test_objects": compared}
    held_out = {"held_out_listener": {"model": "tiny_listener", "style": "judge"}}
    text = written(config(), SETTINGS | held_out, tmp_path, measured)
    main, _, other = text.partition("| **384 pairs of the split `test_objects`** | | | |\n")
    assert "| accuracy, sampled | .500 [.450, .550] | .250 [.450, .550] |  |" in other
    assert "| held-out accuracy, no trace | .500 | .500 |  |" in main
    assert "| held-out" not in other
    assert "Measured on the splits `test`, `test_objects`, in one run with one seed." in text
    assert "* **Held-out listener**: `tiny_listener`, style `judge`, asked in evaluations" in text
    assert "and not an outsider's; the held-out rows are one's." in text


def test_changes_over_other_predictions_than_the_columns_are_marked(tmp_path):
    measured = results()
    assert "A change marked" not in card(tmp_path).text
    gain = {"gain": -0.1, "ci95": None, "paired": 1021, "unpaired": 3}
    measured["after"]["gains"]["contradiction_rate"] = gain
    text = written(config(), SETTINGS, tmp_path, measured)
    assert "| contradiction, argmax | .500 | .500 | -.100* |" in text
    assert "A change marked * is over the 1,021 predictions that have a value both times" in text


def test_the_listener_and_both_prompts(tmp_path):
    text = card(tmp_path).text
    assert "`Qwen/Qwen2.5-VL-7B-Instruct`, frozen, style `judge`: it reads the reasoning" in text
    assert "of weight 0.5, is 1" in text and "format 1, accuracy 0.5, listener 0.5" in text
    assert "Caption: {caption}\nWhich image would most people prefer" in text
    assert "<reasoning>\n{reasoning}\n</reasoning>" in text
    assert "that training rewarded it for convincing" in text


@pytest.mark.parametrize("changes", [{"algorithm": "grpo"}, {"listener.weight": 0.0}])
def test_grpo_without_a_listener_is_called_that(tmp_path, changes):
    written = card(tmp_path, SETTINGS | {"listeners": []}, **changes)
    assert "without a listener, the baseline" in written.text
    assert "**Listener**: none had a part in training" in written.text
    assert "rewarded it for convincing" not in written.text
    assert "listener" not in written.data.tags and "grpo" in written.data.tags


def test_a_mixture_names_what_is_trained_on_and_what_is_measured_on(tmp_path):
    others = (
        {"source": "imagereward", "path": "x"},
        {"source": "scenes", "path": "y", "share": 0.0},
    )
    written = card(tmp_path, **{"data.others": others})
    assert written.data.datasets == ["ymhao/HPDv2", "zai-org/ImageRewardDB"]
    assert "`test` of hpdv2 and imagereward and scenes" in written.text
    assert {x.dataset_type for x in written.data.eval_results} == {"hpdv2+imagereward+scenes"}
    assert "trained on drawn scenes" not in written.text  # they are of share 0
    alone = card(tmp_path, **{"data.source": "scenes", "data.path": None})
    assert alone.data.datasets is None and "trained on drawn scenes" in alone.text


def test_the_built_in_model_knows_drawn_shapes_only(tmp_path):
    def limit(source, **trained_from):
        settings = SETTINGS | {
            "trained_from": {"model": "tiny", "from_scratch": False} | trained_from
        }
        text = card(tmp_path, settings, **{"data.source": source, "data.path": "x"}).text
        return f"of the pictures of {source} it understands nothing" in text

    assert limit("hpdv2") and limit("folder")
    assert not limit("scenes")
    assert not limit("hpdv2", model="Qwen/Qwen2.5-VL-3B-Instruct")
    assert not limit("hpdv2", from_scratch=True)  # of its sizes alone
    evaluated = {
        "data.source": "scenes",
        "data.path": None,
        "data.others": ({"source": "hpdv2", "path": "x", "share": 0.0},),
    }
    tiny = SETTINGS | {"trained_from": {"model": "tiny", "from_scratch": False}}
    assert "of hpdv2 it understands nothing" in card(tmp_path, tiny, **evaluated).text


@pytest.mark.parametrize("pairs, warns", [(2, True), (29, True), (30, False)])
def test_few_pairs_are_called_few(tmp_path, pairs, warns):
    measured = results(pairs=pairs)
    text = written(config(), SETTINGS, tmp_path, measured)
    assert (f"Only {pairs} pairs were evaluated" in text) == warns


def test_code_resizes_where_training_did(tmp_path):
    assert "ImageOps.pad(image, size" in card(tmp_path).text
    images = SETTINGS["images"] | {"one_grid": False}
    text = card(tmp_path, SETTINGS | {"images": images}).text
    assert "ImageOps" not in text and "brought to one size" not in text
