"""The data of a run: tiers, one grid for a pair, captions that are too long, mixtures."""

import json
import re
import types
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from lrt_jax import assets
from lrt_jax.config import ConfigError, parse_config
from lrt_jax.config.presets import preset_config
from lrt_jax.data.dataset.mixture import MixedSet
from lrt_jax.data.dataset.prepared_set import PreparedSet
from lrt_jax.data.input.pairs import PairSource
from lrt_jax.data.input.prompts import WORDINGS
from lrt_jax.data.input.tokenizer import load_tokenizer
from lrt_jax.data.preparation.prepare import prepare
from lrt_jax.data.sources import source_problems
from lrt_jax.models import read_config
from lrt_jax.parallel.mesh import make_mesh
from lrt_jax.training import data as training_data
from lrt_jax.training import export, setup
from tests.data.input.test_patches import write_policy
from tests.data.own_folder import own_folder
from tests.data.preparation.test_near_duplicates import landscape
from tests.data.small_encoder import VISION
from tests.logs import logged
from tests.training.small_run import tiny_config, write_hpdv2


@pytest.fixture(autouse=True)
def one_device(monkeypatch):
    monkeypatch.setattr(setup, "make_mesh", lambda *_: make_mesh(devices=jax.devices()[:1]))


def set_of(folder, *sizes, captions=("a caption",)):
    """Pairs of images of the given sizes, one after the other, in one split `train`."""
    (folder / "in").mkdir(parents=True)
    records = []
    for i, (width, height) in enumerate(sizes):
        Image.new("RGB", (width, height), (i, 0, 0)).save(folder / "in" / f"{i}.png")
    for i in range(0, len(sizes), 2):
        records.append(
            {
                "prompt": captions[i // 2 % len(captions)],
                "file_path": [f"{i}.png", f"{i + 1}.png"],
                "human_preference": [1, 0],
            }
        )
    (folder / "in" / "train.json").write_text(json.dumps(records))
    prepare("hpdv2", folder / "in", folder / "out", near_duplicates="keep")
    return PreparedSet(folder / "out")


def policy_of(prepared, **data):
    """With the image processor of the real models, which allows large images."""
    folder = Path(prepared.folder)
    write_policy(folder)
    options = types.SimpleNamespace(**{"max_patches": None, "one_grid": True} | data)
    config = types.SimpleNamespace(data=options)
    with logged() as lines:
        policy = training_data.image_policy(config, folder, prepared, VISION, ["train"])
    return policy, lines


@pytest.mark.parametrize(
    "side, tier", [(100, 256), (224, 256), (252, 576), (448, 1024), (476, 2304), (1200, 2304)]
)
def test_the_tier_is_the_smallest_that_holds_every_image(tmp_path, side, tier):
    policy, said = policy_of(set_of(tmp_path, (56, 56), (56, 56), (side, side), (side, side)))
    assert policy.max_patches == tier
    assert said[0].endswith(f"so data.max_patches is {tier}")


def test_tiers_are_those_of_the_grids_that_are_shown(tmp_path):
    prepared = set_of(tmp_path, (112, 112), (448, 448))
    assert policy_of(prepared)[0].max_patches == 256  # one grid of 224 pixels for both
    assert policy_of(prepared, one_grid=False)[0].max_patches == 1024
    assert policy_of(prepared, max_patches=64) == (policy_of(prepared, max_patches=64)[0], [])


def test_pairs_with_bars_are_counted(tmp_path):
    """A pair of one size has none, nor has one that rounding to tokens would bring to its grid."""
    sizes = [(100, 100), (109, 100), (60, 120), (60, 120), (60, 120), (120, 60)]
    prepared = set_of(tmp_path, *sizes, *sizes[4:])
    said = policy_of(prepared, max_patches=64)[1]
    assert len(said) == 1 and "images: in 2 of 4 pairs the aspects are so far apart" in said[0]
    assert policy_of(prepared, max_patches=64, one_grid=False)[1] == []


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    return write_hpdv2(tmp_path_factory.mktemp("raw") / "data")


def test_given_prompts_reach_reasoner_judge_and_settings(raw, tmp_path):
    given = {
        "prompts.question": "Which has more {criterion}?",
        "prompts.instruction": "Think. " * 60,
        "prompts.judge_before": "It said of {criterion}:\n",
        "prompts.judge_after": "1 or 2?",
    }
    measured = {"listener.style": "judge", "data.prompt_tokens": None, "data.judge_tokens": None}
    run, _ = opened(tiny_config(raw, **given, **measured), tmp_path)
    assert len(next(iter(run.eval_loader())).prompt.tokens[0]) == run.encoder.prompt.bucket > 180
    asked = "\nWhich has more overall?\n"
    assert f"{asked}Think. Think. " in run.encoder.prompt.text("x")
    (judge,), (listener,) = run.encoder.listener_prompts, run.engine.listeners
    assert judge.text("x").endswith(f"{asked}It said of overall:\n")
    tail = run.engine.tokenizer.decode(listener.tail)
    assert tail.startswith("1 or 2?<|im_end|>")
    settings = export.settings(run)
    assert settings["prompt"]["question"] == "Which has more overall?"
    assert settings["prompt"]["task"] == "Think. " * 60
    told = settings["listeners"][0]
    assert (told["before"], told["after"]) == ("It said of {criterion}:\n", "1 or 2?")


def opened(config, workdir):
    with logged() as lines:
        run, _ = setup.open_run(config, workdir)
    return run, lines


def test_models_are_asked_what_people_were_asked(tmp_path):
    """By reasoner and judge, in buckets that hold it, and as an exported model's settings say."""
    shown = np.zeros((56, 56, 3), np.uint8), np.full((56, 56, 3), 255, np.uint8)
    fields = {"criterion": "coherence", "split": "train"}
    own_folder(tmp_path / "in", [("a caption", *shown, fields)])
    prepare("folder", tmp_path / "in", tmp_path / "out")
    prepared, folder = PreparedSet(tmp_path / "out"), assets.tiny_model()
    config = preset_config("tiny")
    config.update({"data": {"source": "folder", "path": str(tmp_path / "out")}})
    config = parse_config(config)
    tokenizer, model = load_tokenizer(folder), read_config(folder)
    policy = training_data.image_policy(config, folder, prepared, model.vision, ["train"])
    judge = types.SimpleNamespace(tokenizer=tokenizer, model=types.SimpleNamespace(config=model))
    encoder = training_data.pair_encoder(
        config, policy, prepared, tokenizer, model, [judge], ["train"]
    )
    example = encoder.encode(PairSource(prepared, np.arange(1))[0], False)
    wording = WORDINGS["coherence"]
    for prompt in (example.prompt, *example.listener_prompts):
        assert wording.question in tokenizer.decode(prompt.tokens[: prompt.length])
    overall = encoder.prompt.length("a caption", ((4, 4), (4, 4)))
    assert encoder.prompt.bucket == -(-example.prompt.length // 16) * 16 > -(-overall // 16) * 16
    run = types.SimpleNamespace(
        config=config,
        encoder=encoder,
        engine=types.SimpleNamespace(listeners=(), held_out=None),
        sampling=types.SimpleNamespace(stop_ids=(2,)),
        folder=folder,
        prepared=prepared,
        training_rows=np.arange(1),
    )
    asked = export.settings(run)["prompt"]
    assert (asked["criterion"], asked["question"], asked["task"]) == ("coherence", *wording)
    assert asked["criteria"] == {"coherence": wording._asdict()}


def test_long_captions_are_refused_or_left_out_by_choice(raw, tmp_path):
    """A quarter of the captions each has no, one, two or three times `, in detail`."""
    run, _ = opened(tiny_config(raw, **{"data.prompt_tokens": None}), tmp_path)
    lengths = [
        run.encoder.prompt.length(run.prepared.pair(row).prompt, ((8, 8), (8, 8)))
        for row in range(run.prepared.num_pairs)
    ]
    bucket = max(lengths) - 1
    changes = {"data.prompt_tokens": bucket, "batch_size": 2}
    with pytest.raises(ValueError, match=r"captions do not fit into data.prompt_tokens.*skip"):
        opened(tiny_config(raw, **changes), tmp_path)
    run, said = opened(tiny_config(raw, **changes, **{"data.on_long_caption": "skip"}), tmp_path)
    expected = {row for row, length in enumerate(lengths) if length > bucket}
    assert {*run.left_out.tolist()} == expected and 0 < len(expected) < len(lengths)
    told = [line for line in said if line.startswith("captions:")]
    for split, line in zip(("train", "validation"), told, strict=True):
        rows = run.prepared.rows(split)
        assert f"{len(expected & {*rows})} of {len(rows)} pairs of split '{split}' left out" in line
    with run.train_loader() as batches:
        drawn = {int(row) for _ in range(batches.pairs) for row in next(batches).target.pair}
    assert drawn and not drawn & expected
    assert not {int(row) for b in run.eval_loader() for row in b.target.pair} & expected


def test_a_measured_bucket_holds_every_caption(raw, tmp_path):
    changes = {"data.prompt_tokens": None, "data.judge_tokens": None}
    run, said = opened(tiny_config(raw, **changes), tmp_path)
    assert not len(run.left_out) and not any(line.startswith("captions:") for line in said)


def test_a_measured_bucket_has_bounds(raw, tmp_path, monkeypatch):
    monkeypatch.setattr(training_data, "MEASURED_TOKENS", 64)
    changes = {"data.prompt_tokens": None, "data.judge_tokens": None}
    with pytest.raises(ValueError, match=r"takes \d+ tokens .* give data\.prompt_tokens, and data"):
        opened(tiny_config(raw, **changes), tmp_path)


def test_pairs_that_nobody_voted_on_are_counted():
    rows = {"train": range(4), "test": range(4, 6)}
    prepared = types.SimpleNamespace(labels=np.array([0, -1, 2, -1, 1, 2]), rows=rows.get)
    with logged() as lines:
        training_data.log_without_votes(prepared, ("train", "test", "train"))
    assert lines == ["votes: 2 of 4 pairs of split 'train' left out, which nobody voted on"]


@pytest.mark.parametrize(
    "there, limit, words",
    [
        (3, 0, r"only 2 pairs .* by 25 points; give it more of the data \(data.split_fractions\)"),
        (80, 29, r"only 29 pairs of split 'test' .* by 2 points; raise eval.pairs \(--pairs of"),
        (80, 30, None),
        (31, 0, None),
        (1, 0, None),  # nothing at all, which is an error elsewhere
    ],
)
def test_a_warning_of_few_evaluated_pairs(there, limit, words):
    labels = np.append(-1, np.ones(there - 1, int))  # nobody voted on the first
    prepared = types.SimpleNamespace(labels=labels, rows=lambda split: range(there))
    options = types.SimpleNamespace(pairs=limit)
    config = types.SimpleNamespace(eval=options, evaluated_splits=("test",))
    with logged() as lines:
        training_data.warn_of_few(config, prepared, np.empty(0, np.int64))
    assert len(lines) == bool(words) and (not words or re.match(f"warning: {words}", lines[0]))


def test_a_run_on_a_mixture(raw, tmp_path):
    other = set_of(tmp_path / "other", *[(80, 80)] * 12, captions=[f"thing {i}" for i in range(6)])
    others = ({"source": "hpdv2", "path": other.folder, "share": 1.0},)
    changes = {"data.others": others, "data.split_fractions": {}, "data.share": 3.0}
    fractions = {"train": 0.7, "validation": 0.3}
    prepare("hpdv2", raw, tmp_path / "set", split_fractions=fractions, near_duplicates="keep")
    run, said = opened(tiny_config(tmp_path / "set", **changes), tmp_path / "run")
    assert isinstance(run.prepared, MixedSet) and run.prepared.parts[1].folder == other.folder
    assert "mixture: hpdv2 75%, hpdv2 25% of the pairs that are trained on" in said
    with run.train_loader() as batches:
        rows = np.concatenate([next(batches).target.pair for _ in range(4)])
    assert (rows >= 60).sum() == 4
    alone = {int(row) for batch in run.eval_loader() for row in batch.target.pair}
    assert max(alone) < 60  # the other set has no such split
    settings = export.settings(run)
    assert settings["data"]["fingerprints"] == [part.fingerprint for part in run.prepared.parts]
    assert settings["images"]["one_grid"]


SFT = {"algorithm": "sft", "data.demonstrations": "answers"}


def cut_twice(raw, folder, *seeds, share=1.0, **changes):
    """The config of a mixture of a set with itself, each part cut by a seed of its own."""
    fractions, (first, other) = {"train": 0.7, "validation": 0.3}, (folder / "0", folder / "1")
    for part, seed in zip((first, other), seeds, strict=True):
        prepare("hpdv2", raw, part, split_fractions=fractions, seed=seed, near_duplicates="keep")
    others = ({"source": "hpdv2", "path": str(other), "share": share},)
    return tiny_config(first, **{"data.others": others, "data.split_fractions": {}} | changes)


def captions_of(folder, split):
    prepared = PreparedSet(folder)
    return {*prepared.captions(prepared.rows(split))}


@pytest.mark.parametrize("changes", [{}, SFT], ids=["grpo", "sft"])
def test_a_mixture_whose_parts_were_cut_otherwise_is_refused(raw, tmp_path, changes):
    config, both = cut_twice(raw, tmp_path, 0, 5, **changes), (tmp_path / "0", tmp_path / "1")
    evaluated = [captions_of(part, "validation") for part in both]
    trained = [captions_of(part, "train") for part in both]
    again = len(evaluated[0] & trained[1]) + len(evaluated[1] & trained[0])
    assert again and evaluated[0] & trained[1] and evaluated[1] & trained[0]
    folders = f"{both[0]} + {both[1]}"
    told = (  # three pairs of each caption, with five votes, so that none is a tie
        f"{folders}: {3 * again} of {3 * sum(map(len, evaluated))} pairs of split 'validation' are "
        f"trained on, as pairs of split 'train' of {folders}, so that figures would tell what was "
        "learnt by heart; cut all sets with the same data.split_fractions, and where "
        "lrt_jax.prepare cuts them with the same --seed"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(told)}$"):
        opened(config, tmp_path / "run")


def test_a_part_that_is_only_evaluated_is_held_against_what_is_trained_on(raw, tmp_path):
    config = cut_twice(raw, tmp_path, 0, 5, share=0.0)
    again = captions_of(tmp_path / "1", "validation") & captions_of(tmp_path / "0", "train")
    told = f"^{tmp_path}/1: {3 * len(again)} of .* as pairs of split 'train' of {tmp_path}/0, so"
    with pytest.raises(ValueError, match=told):
        opened(config, tmp_path / "run")


def test_an_evaluation_alone_is_not_held_against_a_training_split(raw, tmp_path):
    config = cut_twice(raw, tmp_path, 0, 5, **{"data.train_split": ""})
    setup.open_run(config, tmp_path / "run", policy="tiny")


def test_parts_that_were_cut_alike_are_trained_on_and_evaluated(raw, tmp_path):
    run, said = opened(cut_twice(raw, tmp_path, 5, 5), tmp_path / "run")
    assert len(run.prepared.parts) == 2 and not any("trained on under" in line for line in said)


def own_set(folder, *rows):
    """Pairs of pictures that are given by number, each with its caption, split and winner."""
    rows = [
        (caption, landscape(one), landscape(other), {"split": split, "winner": winner})
        for caption, one, other, split, winner in rows
    ]
    prepare("folder", own_folder(folder / "in", rows), folder / "out", near_duplicates="keep")
    return PreparedSet(folder / "out")


def held_apart(prepared, target="hard", leave_out=(), split="held_out", others=()):
    """What is logged where a set's split `train` is trained on, and other ones evaluated."""
    config = types.SimpleNamespace(
        data=types.SimpleNamespace(train_split="train", target=target),
        drops_ties=target == "hard",
        eval=types.SimpleNamespace(split=split),
        evaluated_splits=(split, *others),
    )
    with logged() as lines:
        training_data.refuse_trained_pairs(config, prepared, leave_out)
    return lines


def test_a_pair_of_one_set_in_both_splits_is_refused_and_other_splits_are_named(tmp_path):
    prepared = own_set(
        tmp_path,
        ("a cat", 0, 1, "train", 0),
        ("a dog", 2, 3, "train", 0),
        ("A cat!", 1, 0, "held_out", 0),
        ("a bird", 4, 5, "held_out", 0),
        ("a fish", 6, 7, "further", 0),
        ("a dog", 2, 3, "more", 0),
    )
    told = (
        r"out: 1 of 2 pairs of split 'held_out' are trained on, .* --seed, or take "
        r"--config\.eval\.split=further$"
    )
    with pytest.raises(ValueError, match=told):
        held_apart(prepared)
    assert held_apart(prepared, split="further") == []
    told = (
        r"out: 1 of 1 pairs of split 'more' are trained on, .* --seed, or take it out of "
        r"eval\.others$"
    )
    with pytest.raises(ValueError, match=told):
        held_apart(prepared, split="further", others=("more",))


def test_a_test_split_can_be_kept_out_of_training(tmp_path):
    trained = own_set(
        tmp_path / "trained", ("a cat", 0, 1, "train", 0), ("a dog", 2, 3, "train", 0)
    )
    tested = own_set(tmp_path / "tested", ("a cat", 0, 1, "test", 0))
    mixed = MixedSet((trained, tested), (1.0, 0.0))
    told = r"tested/out: 1 of 1 .* of \S*/trained/out, .*, or keep them out .* with data.test_sets$"
    with pytest.raises(ValueError, match=told):
        held_apart(mixed, split="test")


def test_images_under_other_captions_are_counted_and_said(tmp_path):
    prepared = own_set(
        tmp_path,
        ("a cat", 0, 1, "train", 0),
        ("a dog", 2, 3, "train", 0),
        ("a bird", 1, 4, "held_out", 0),  # one image
        ("a fish", 3, 0, "held_out", 0),  # two, of two pairs
        ("a tram", 3, 2, "held_out", 0),  # a pair's two
        ("a ship", 5, 6, "held_out", 0),
        ("a cat", 5, 6, "held_out", 0),  # its words alone
    )
    assert held_apart(prepared) == [
        "note: 3 of 5 pairs of split 'held_out' show an image that is trained on under another "
        "caption, and 1 of them both images of such a pair"
    ]


def test_only_what_is_trained_on_and_evaluated_counts(tmp_path):
    prepared = own_set(
        tmp_path,
        ("a cat", 0, 1, "train", "tie"),
        ("a dog", 2, 3, "train", 0),
        ("a cat", 0, 1, "held_out", 0),
        ("a bird", 4, 5, "held_out", 0),
    )
    assert held_apart(prepared) == []  # ties teach a hard target nothing
    with pytest.raises(ValueError, match="1 of 2 pairs of split 'held_out'"):
        held_apart(prepared, "votes")
    for row in (0, 2):
        assert prepared.pair(row).prompt == "a cat"
        assert held_apart(prepared, "votes", [row]) == []


def test_raw_parts_are_prepared_beside_one_another(raw, tmp_path):
    others = ({"source": "hpdv2", "path": str(raw)},)
    config = tiny_config(raw, **{"data.others": others})
    mixed = training_data.open_data(config, tmp_path)
    assert [part.folder for part in mixed.parts] == [
        str(tmp_path / "data"),
        str(tmp_path / "data-1-hpdv2"),
    ]
    again = training_data.open_data(config, tmp_path)
    assert again.fingerprint == mixed.fingerprint
    missing = tiny_config(raw, **{"data.others": ({"path": str(tmp_path / "gone")},)})
    with pytest.raises(FileNotFoundError, match=r"data.others\[0\].path: .*gone: no such folder"):
        training_data.check_data_path(missing)
    with pytest.raises(FileNotFoundError, match=r"data.path: .*: is a file; name the folder of"):
        training_data.check_data_path(tiny_config(next(raw.glob("*.json"))))


def test_mixtures_that_cannot_be(raw):
    for others, message in (
        (({"source": "imagereward"},), r"data.others\[0\].path: not set"),
        (
            ({"source": "nowhere", "path": "x"},),
            r"data.others\[0\].source: unknown source 'nowhere'",
        ),
        (({"path": "x", "share": -1.0},), r"data.others\[0\].share: -1.0 is not a number from 0"),
        (({"path": "x", "part": 1},), r"data.others\[0\].part: no such field"),
    ):
        with pytest.raises(ConfigError, match=message):
            parse_config(tiny_config(raw, **{"data.others": others}).to_dict(), source_problems)
    with pytest.raises(ConfigError, match=r"data.share: no set has any"):
        tiny_config(raw, **{"data.share": 0.0})
    only_evaluated = {"data.share": 0.0, "data.others": ({"path": "x"},)}
    assert [part.share for part in tiny_config(raw, **only_evaluated).data_sets] == [0.0, 1.0]


@pytest.mark.parametrize(
    ("name", "value"),
    [("criterion", "style"), ("test_sets", ("set",)), ("split_fractions", {"train": 1.0})],
)
def test_a_prepared_set_is_what_the_config_asks_for(tmp_path, name, value):
    prepared = set_of(tmp_path / "one", (80, 80), (80, 80))
    other = set_of(tmp_path / "other", (90, 80), (90, 80), captions=("another",))
    value = (other.folder,) if name == "test_sets" else value
    config = tiny_config(prepared.folder, **{"data.split_fractions": {}, f"data.{name}": value})
    with pytest.raises(ValueError, match=f"prepared with data.{name}=.*prepare the raw data anew"):
        training_data.open_data(config, tmp_path / "run")
