"""A config tells all of its problems at once, and knows its own fields."""

import dataclasses
import functools
import re
import runpy
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, get_args, get_origin, get_type_hints

import pytest
from absl import flags

from lrt_jax.algorithms import BUILT_IN, algorithm_problems
from lrt_jax.cli import commands
from lrt_jax.cli.commands import config_flag_problems, define_config
from lrt_jax.config import (
    Config,
    ConfigError,
    PromptOptions,
    choices,
    default_config,
    parse_config,
    reading,
    schema,
)
from lrt_jax.config.choices import Preset, Remat
from lrt_jax.config.earlier import ABSENT
from lrt_jax.config.presets import preset_config, resolve_auto
from lrt_jax.models.layers import REMAT_POLICIES

CONFIGS = Path(__file__).parents[2] / "configs"


def with_data(**changes):
    config = preset_config("tiny")
    config.data.path = "somewhere"
    config.update_from_flattened_dict(changes)
    return config


@pytest.mark.parametrize("preset", get_args(Preset))
def test_presets_are_complete_configs(preset):
    config = preset_config(preset, of=get_args(Preset))
    config.data.path = "somewhere"
    parsed = parse_config(config)
    assert parsed.preset == preset
    assert parse_config(parsed.to_dict()) == parsed


def test_defaults_are_the_schemas():
    assert default_config().to_dict() == dataclasses.asdict(Config())


def test_all_problems_at_once():
    config = with_data(
        **{
            "algorithm": "ppo",
            "group_size": 1,
            "top_p": 0.0,
            "batch_size": 7,
            "loss.microbatches": 2,
            "loss.type": "cispo",
            "data.max_patches": 100,
            "data.path": None,
        }
    )
    with pytest.raises(ConfigError) as caught:
        parse_config(config)
    told = "\n".join(caught.value.problems)
    for field in (
        "algorithm: 'ppo'",
        "top_p",
        "loss.microbatches: 2",
        "loss.epsilon_high",
        "data.max_patches: 100",
        "data.path: not set",
    ):
        assert field in told
    assert len(caught.value.problems) == 6


def test_types_and_unknown_fields():
    values = with_data().to_dict()
    values["steps"] = "many"
    values["data"]["colour"] = 1
    with pytest.raises(ConfigError, match=r"steps: 'many' is str, expected int") as caught:
        parse_config(values)
    assert "data.colour: no such field" in str(caught.value)


def test_listeners_that_cannot_be_asked():
    others = ({"path": "x", "sytle": "judge"}, {"style": "shout"}, {"share": "much"})
    with pytest.raises(ConfigError, match=r"others\[0\].sytle: no such field") as caught:
        parse_config(with_data(**{"listener.others": others}))
    assert "listener.others[2].share: 'much' is str, expected float" in caught.value.problems
    with pytest.raises(ConfigError, match=r"listener.others\[0\].style: 'shout' is not one of"):
        parse_config(with_data(**{"listener.others": others[1:2]}))


@pytest.mark.parametrize(
    "field, value",
    [
        ("loss.importance_sampling_cap", -1.0),
        ("loss.epsilon", -0.5),
        ("optimizer.clip_norm", -1.0),
        ("optimizer.b1", 1.5),
        ("rewards.accuracy", float("nan")),
        ("temperature", float("inf")),
        ("mesh.data", 0),
        ("seed", 2**32),
        ("data.judge_tokens", -1),
    ],
)
def test_numbers_that_cannot_be_meant(field, value):
    with pytest.raises(ConfigError, match=field):
        parse_config(with_data(**{field: value}))


def test_naive_grpo_has_no_listener_term():
    assert parse_config(with_data(algorithm="grpo")).reward_weights.keys() == {"format", "accuracy"}
    assert parse_config(with_data(algorithm="grpo", **{"listener.weight": 0.0}))
    silent = parse_config(with_data(**{"listener.weight": 0.0}))
    assert not silent.uses_listener
    heard = parse_config(with_data(**{"listener.weight": 0.25}))
    assert heard.reward_weights == {"format": 1.0, "accuracy": 0.5, "listener": 0.25}


def test_auto_takes_what_fits_the_devices():
    assert resolve_auto("tpu")[0] == "7b"
    assert resolve_auto("cpu") == ("tiny", "there is no TPU, only cpu")


@pytest.mark.parametrize(
    "name, source",
    [("auto", "scenes"), ("tiny", "scenes"), ("3b", "imagereward"), ("7b", "imagereward")],
)
def test_presets_of_the_main_job(name, source):
    get_config = runpy.run_path(str(CONFIGS / "imagereward.py"))["get_config"]
    config = get_config(name)
    assert config.data.source == source
    if source == "scenes":
        parse_config(config)  # needs nothing else
    else:
        with pytest.raises(ConfigError, match="data.path: not set"):
            parse_config(config)


def test_the_config_that_makes_the_tiny_model():
    get_config = runpy.run_path(str(CONFIGS / "scenes.py"))["get_config"]
    config = parse_config(get_config())
    assert config.algorithm == "sft" and config.model.from_scratch and config.model.freeze == ()
    main = preset_config("tiny")
    assert config.data.scenes.seed != main.data.scenes.seed  # other pictures than it is tried on
    with pytest.raises(ValueError, match="preset 'grpo' is not one of"):
        get_config("grpo")


def test_unknown_fields_are_told_with_the_nearest():
    values = default_config().to_dict()
    values["stepz"] = 3
    values["loss"]["bta"] = 0.1
    values["listener"]["others"] = ({"stile": "judge"},)
    with pytest.raises(ConfigError) as caught:
        parse_config(values)
    assert {
        "stepz: no such field; did you mean steps?",
        "loss.bta: no such field; did you mean loss.beta?",
        "listener.others[0].stile: no such field; did you mean listener.others[0].style?",
    } <= set(caught.value.problems)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"mesh.fsdp": 3}, "batch_size: 16 rows at a time do not divide over the mesh of 3"),
        ({"mesh.fsdp": 0}, "mesh.fsdp: 0 devices"),
        ({"data.prompt_tokens": 32}, "data.prompt_tokens: 32 leaves no place for words"),
        (
            {"data.judge_tokens": 32, "listener.style": "judge"},
            "data.judge_tokens: 32 leaves no place for words",
        ),
        (
            {"rewards.format": 0.0, "rewards.accuracy": 0.0, "listener.weight": 0.0},
            "rewards: every weight is 0",
        ),
        (
            {"algorithm": "grpo", "listener.weight": 0.7},
            "listener.weight: 0.7, but algorithm=grpo rewards no listener",
        ),
        ({"loss.delta": 1.1}, "loss.delta: 1.1 is not above 1 . epsilon"),
        ({"data.split_fractions": {"train": 0.7}}, "data.split_fractions: they add up to 0.7"),
        ({"optimizer.mu_dtype": "float16"}, "mu_dtype: 'float16' is not one of float32, bfloat16"),
        ({"data.threads": 0}, "data.threads: 0 is not a number from 1 on"),
        (
            {"model.param_dtype": "bfloat16"},
            "model.param_dtype: bfloat16 .* round to nothing.* take model.dtype=bfloat16",
        ),
        ({"model.freeze": ("vision", "[")}, r"model.freeze: '\[' is no regular expression"),
        ({"optimizer.warmup_steps": 10**12}, "optimizer.warmup_steps: 1000000000000 is not below"),
        ({"steps": 10**400}, "steps: 10+ is not below 2147483648"),
        ({"group_size": 2**31}, "group_size: 2147483648 is not below 2147483648"),
        ({"data.scenes.seed": 2**32}, "data.scenes.seed: 4294967296 is not below 4294967296"),
        (
            {"eval.split": "train"},
            "eval.split: training on split 'train' and .*'train' share pairs",
        ),
        (
            {"eval.split": "all"},
            "eval.split: training on split 'train' and evaluating on split 'all",
        ),
        (
            {"eval.others": ("test", "train")},
            "eval.others: training on split 'train' and evaluating on split 'train' share pairs",
        ),
        ({"data.train_split": "validation"}, "eval.split: training on split 'validation' .* share"),
        ({"data.train_split": "all"}, "data.train_split: training on split 'all' .* share pairs"),
        (
            {"sampling.weights": "int8"},
            "sampling.weights: int8 samples from another policy .*importance_sampling_cap=2.0",
        ),
    ],
)
def test_impossible_combinations_are_told(changes, told):
    with pytest.raises(ConfigError, match=told):
        parse_config(with_data(**changes), algorithm_problems)


@pytest.mark.parametrize(
    "changes",
    [
        {"loss.importance_sampling_cap": 2.0},
        {"data.train_split": None},  # as in evaluations
        {"algorithm": "sft", "listener.weight": 0.0, "data.demonstrations": "a", "group_size": 1},
    ],
)
def test_samples_in_int8_want_no_cap_where_no_loss_is_taken_of_them(changes):
    config = parse_config(with_data(**{"sampling.weights": "int8"} | changes), algorithm_problems)
    assert config.sampling.weights == "int8"


@pytest.mark.parametrize(("field", "mark"), ABSENT.items())
def test_what_earlier_scripts_give_for_an_absent_value_is_none(field, mark):
    """A text or number that a field of this meaning never takes: `` for a path, 0 for a cap."""
    values = with_data(**{"data.source": "scenes", field: mark})
    part, _, name = field.rpartition(".")
    parsed = parse_config(values)
    assert getattr(getattr(parsed, part) if part else parsed, name) is None
    assert parsed == parse_config(with_data(**{"data.source": "scenes", field: None}))


def test_an_absent_value_of_further_listeners_and_sets_is_none_too():
    others = {
        "listener.others": ({"path": ""},),
        "data.others": ({"source": "scenes", "path": ""},),
    }
    parsed = parse_config(with_data(**others))
    assert parsed.listeners[1].path is None and parsed.data_sets[1].path is None


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"data.max_patches": False}, "data.max_patches: False is bool, expected int"),
        ({"data.path": 0}, "data.path: 0 is int, expected str"),
        ({"optimizer.mu_dtype": 0}, "optimizer.mu_dtype: 0 is not one of float32, bfloat16"),
        ({"steps": None}, "steps: None is NoneType, expected int"),
        ({"listener.style": None}, "listener.style: None is not one of judge, continue"),
    ],
)
def test_what_is_no_value_of_a_field_is_not_taken_for_an_absent_one(changes, told):
    values = with_data().to_dict()
    ((field, value),) = changes.items()
    *parents, name = field.split(".")
    functools.reduce(dict.get, parents, values)[name] = value
    with pytest.raises(ConfigError) as caught:
        parse_config(values)
    assert caught.value.problems == [told]


def parsed_flags(monkeypatch, *arguments: str) -> flags.FlagValues:
    """The flags of a command line."""
    command = ["main", f"--config={CONFIGS / 'imagereward.py'}:tiny", *arguments]
    monkeypatch.setattr(sys, "argv", command)
    values = flags.FlagValues()
    define_config(values)
    values(command)
    return values


def flagged(monkeypatch, *arguments: str):
    """The config of a command line."""
    return parsed_flags(monkeypatch, *arguments).config


SPLITS = ("test_combinations", "test_objects")
REAL = ("--config.data.source=folder", "--config.data.path=x")


@pytest.mark.parametrize(
    ("arguments", "splits"),
    [
        ((), SPLITS),
        (REAL, ()),
        ((*REAL, "--config.data.others=({'source': 'scenes'},)"), SPLITS),
        ((*REAL, "--config.eval.others=('mine',)"), ("mine",)),
        ((*REAL, f"--config.eval.others={SPLITS}"), SPLITS),  # which the data will be asked for
        (("--config.eval.others=()",), ()),
        (("--config.eval.split=test_objects",), SPLITS),
    ],
)
def test_splits_of_scenes_that_a_preset_names_are_left_out_of_other_data(
    monkeypatch, arguments, splits
):
    values = parsed_flags(monkeypatch, *arguments)
    monkeypatch.setattr(flags, "FLAGS", values)
    monkeypatch.setattr(commands, "start", lambda: None)
    assert commands.read_config(values.config).eval.others == splits
    assert commands.config_for_tpus(values.config).eval.others == splits


def test_a_split_that_is_named_twice_is_evaluated_once():
    config = parse_config(with_data(**{"eval.split": "a", "eval.others": ("b", "a", "b")}))
    assert config.evaluated_splits == ("a", "b")


def test_the_held_out_listener_has_a_place_for_words_too():
    judged = {"listener.style": "judge", "algorithm": "grpo", "data.judge_tokens": 8}
    parse_config(with_data(**judged, **{"eval.held_out_listener": None}))
    with pytest.raises(ConfigError, match="data.judge_tokens: 8 leaves no place for words"):
        parse_config(with_data(**judged, **{"eval.held_out_listener": "other"}))


def test_fields_without_a_value_are_set_from_the_command_line(monkeypatch):
    given = {
        "data.path": "folder",
        "data.prompt_tokens": 320,
        "eval.held_out_listener": "other",
        "listener.path": "judge",
        "loss.delta": 2.0,
        "loss.importance_sampling_cap": 2.0,
        "optimizer.mu_dtype": "bfloat16",
        "profile": "3:5",
    }
    config = flagged(monkeypatch, *(f"--config.{name}={value}" for name, value in given.items()))
    assert given.items() <= schema.flat(parse_config(config).to_dict()).items()
    with pytest.raises(flags.IllegalFlagValueError, match="many"):
        flagged(monkeypatch, "--config.loss.delta=many")


def test_names_of_the_users_own_are_given_on_the_command_line(monkeypatch):
    """The default has none, of splits as of rewards."""
    shares = ("train=1", "validation=0.25")
    given = [f"--config.data.split_fractions.{share}" for share in shares]
    config = flagged(monkeypatch, *given, "--config.rewards.weights.brevity=0.5")
    assert config.data.split_fractions.to_dict() == {"train": 1, "validation": 0.25}
    assert config.rewards.weights.to_dict() == {"brevity": 0.5}
    assert not list(config_flag_problems(given))


@pytest.mark.parametrize("field", ABSENT)
def test_any_value_that_may_be_absent_is_taken_away_from_the_command_line(monkeypatch, field):
    changed = flagged(monkeypatch, f"--config.{field}=None")
    assert schema.flat(parse_config(changed).to_dict())[field] is None
    assert not list(config_flag_problems([f"--config.{field}=None"]))


def test_a_value_that_may_not_be_absent_is_not_taken_away(monkeypatch):
    with pytest.raises(ConfigError, match="steps: None is NoneType, expected int"):
        parse_config(flagged(monkeypatch, "--config.steps=None"))


def fields_of_words(part, prefix: str = "") -> Iterator[str]:
    """Dotted names of the fields that take some words alone."""
    for name, kind in get_type_hints(type(part)).items():
        value = getattr(part, name)
        if dataclasses.is_dataclass(value):
            yield from fields_of_words(value, f"{prefix}{name}.")
        elif get_origin(kind) is Literal:
            yield f"{prefix}{name}"


@pytest.mark.parametrize("field", fields_of_words(Config()))
@pytest.mark.parametrize("word", ["no such word", 3])
def test_a_field_of_some_words_takes_no_other(field, word):
    values = with_data(steps=0).to_dict()
    *parents, name = field.split(".")
    part = functools.reduce(dict.get, parents, values)
    known, part[name] = part[name], word
    with pytest.raises(ConfigError) as caught:
        parse_config(values)
    first, second = caught.value.problems  # what else is wrong is told too
    assert first.startswith(f"{field}: {word!r} is not one of ") and known in first
    assert second.startswith("steps: 0 ")


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("question", " ", "an empty text; None takes the project's own"),
        ("question", "Which {criterion} of {caption}?", "braces are for {criterion} alone"),
        ("instruction", "Answer {}.", "braces are for {criterion} alone"),
        ("judge_before", "As {{criterion}}\n", "braces are for {criterion} alone"),
        ("judge_before", "It said: ", "does not end in a line end"),
        ("judge_after", "\nSay 1 or 2.", "begins with a blank"),
        ("judge_after", "Judge {criterion}.", "{criterion} has no place"),
    ],
)
def test_prompts_that_cannot_be_are_told(name, text, told):
    with pytest.raises(ConfigError) as caught:
        parse_config(with_data(**{f"prompts.{name}": text}))
    (problem,) = caught.value.problems
    assert problem.startswith(f"prompts.{name}: ") and told in problem


def test_prompts_come_from_the_command_line(monkeypatch):
    config = flagged(monkeypatch, "--config.prompts.question=Which has more {criterion}?")
    prompts = parse_config(config).prompts
    assert prompts == PromptOptions(question="Which has more {criterion}?")


def parts_of(part) -> Iterator[type]:
    """Classes of a config and of its parts, with those that they take fields from."""
    yield from (cls for cls in type(part).__mro__ if dataclasses.is_dataclass(cls))
    for field in dataclasses.fields(part):
        if dataclasses.is_dataclass(value := getattr(part, field.name)):
            yield from parts_of(value)


@pytest.mark.parametrize("part", [*dict.fromkeys(parts_of(Config()))], ids=lambda x: x.__name__)
def test_every_field_says_what_it_is_for(part):
    told = re.findall(r"^      (\w+): \S", part.__doc__.partition("Attributes:")[2], re.MULTILINE)
    assert told == [*part.__annotations__]


def test_names_are_those_of_what_does_the_work():
    assert [*BUILT_IN] == [*choices.ALGORITHMS]
    assert tuple(REMAT_POLICIES) == get_args(Remat)


def test_a_wrong_command_line_is_told_at_once():
    arguments = [
        "--config=nowhere.py:tiny",
        "--config.stepz=3",
        "--config.loss.bta=1",
        "--config.steps=many",
        "--config.data.prompt_tokens=many",
        "--config.loss.delta=much",
        "--config.data.split_fractions.train=0.5",
        "--config.eval.listener",
        "--workdir=x",
    ]
    first, *others = [line for _, line in config_flag_problems(arguments)]
    assert first.startswith("--config=nowhere.py:tiny: there is no file nowhere.py; there are ")
    assert others == [
        "--config.stepz: no such field; did you mean steps?",
        "--config.loss.bta: no such field; did you mean loss.beta?",
        "--config.steps: 'many' is no int",
        "--config.data.prompt_tokens: 'many' is no int",
        "--config.loss.delta: 'much' is no float",
    ]


def test_a_config_is_checked_before_anything_large_is_imported():
    code = "import sys, lrt_jax.main, lrt_jax.config.presets; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    large = {"transformers", "torch", "flax", "optax", "orbax", "grain", "tensorflow_datasets"}
    assert not large & set(done.stdout.split())


@pytest.mark.parametrize("name", ["optimizer.lr", "lr", "train.lr"])
def test_names_that_are_usual_elsewhere_lead_to_ours(name):
    fields = schema.flat(default_config())
    told = reading.unknown_field(name, fields)
    assert told == f"{name}: no such field; did you mean optimizer.learning_rate?"
    assert {*reading.USUAL_NAMES.values()} <= fields.keys()
    assert not {*reading.USUAL_NAMES} & {field.rpartition(".")[2] for field in fields}


@pytest.mark.parametrize(
    ("earlier", "name"),
    [
        ("loss.sampler_cap", "loss.importance_sampling_cap"),
        ("loss.level", "loss.importance_sampling_level"),
        ("model.fresh", "model.from_scratch"),
        ("data.lessons", "data.demonstrations"),
    ],
)
def test_an_earlier_name_of_a_field_leads_to_its_name(earlier, name):
    ((_, told),) = config_flag_problems([f"--config.{earlier}=1"])
    assert told == f"--config.{earlier}: no such field; it is called {name} now"
    values = default_config()
    part, field = earlier.split(".")
    values[part][field] = 1
    with pytest.raises(ConfigError, match=f"{earlier}: no such field; it is called {name} now"):
        parse_config(values)
