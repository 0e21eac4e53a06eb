"""The recipes of CONTRIBUTING.md, as they stand there: each is one file of somebody's own."""

import dataclasses
import importlib
import json
import re
import sys
from pathlib import Path

import pytest
from PIL import Image

from lrt_jax.algorithms import algorithm_problems
from lrt_jax.config import ConfigError, parse_config
from lrt_jax.config.presets import preset_config
from lrt_jax.data.dataset.prepared_set import PreparedSet
from lrt_jax.data.input.traces import strip_answer
from lrt_jax.data.preparation.prepare import prepare
from lrt_jax.reporting.completions import TERM_PREFIX, read_completions
from lrt_jax.reporting.metrics import read_metrics
from lrt_jax.rl.rewards import RewardInputs
from lrt_jax.storage.workdir import LocalWorkdir
from lrt_jax.training.loop import train
from tests.training.small_run import tiny_config, write_hpdv2

PAGE = (Path(__file__).parents[1] / "CONTRIBUTING.md").read_text(encoding="utf-8")
FILES = dict(re.findall(r"```python\n# (\w+\.py)\n(.*?)```", PAGE, re.DOTALL))
REWARD, ALGORITHM = "my_rewards:names_the_caption", "my_algorithm:Measured"


@pytest.fixture(autouse=True)
def own_modules(tmp_path, monkeypatch):
    folder = tmp_path / "own"
    folder.mkdir()
    for name, code in FILES.items():
        (folder / name).write_text(code)
    monkeypatch.syspath_prepend(folder)
    yield
    for name in FILES:
        sys.modules.pop(name.removesuffix(".py"), None)


def test_a_reward_and_an_algorithm_of_ones_own(tmp_path):
    data = write_hpdv2(tmp_path / "data")
    few = {"steps": 1, "eval.pairs": 2, "eval.every": 0, "completions_every": 1}
    values = tiny_config(data, **few).to_dict()
    values["algorithm"], values["rewards"]["weights"] = ALGORITHM, {REWARD: 0.2}
    config = parse_config(values, algorithm_problems)
    results = train(config, LocalWorkdir(tmp_path / "run"))
    assert results["algorithm"] == "Measured"
    [line] = read_metrics(tmp_path / "run")
    assert 0 < line["completions/length"] <= config.max_completion_length
    assert f"reward/{REWARD}/mean" in line
    for row in read_completions(tmp_path / "run").to_pylist():
        words = {*row["caption"].lower().split()}
        trace = strip_answer(row["text"])
        expected = len(words & {*trace.lower().split()}) / len(words)
        assert row[TERM_PREFIX + REWARD] == pytest.approx(expected, abs=1e-6)


def test_the_config_file_of_a_reward_is_a_run():
    get_config = importlib.import_module("my_run").get_config
    config = parse_config(get_config(), algorithm_problems)
    assert config.reward_weights[REWARD] == 0.2
    assert config.steps == 1


def test_the_fields_that_a_reward_gets_are_listed():
    table = PAGE[PAGE.index("| field of `RewardInputs`") : PAGE.index("A config file names it")]
    named = re.findall(r"`(\w+)`", "".join(re.findall(r"^\| (`[^|]+)\|", table, re.MULTILINE)))
    assert {*named} == {field.name for field in dataclasses.fields(RewardInputs)}


def test_a_source_of_ones_own(tmp_path):
    duels = [
        {"text": text, "left": f"{i}.png", "right": f"{i + 1}.png", "left_wins": i % 2}
        for i, text in enumerate(("a red house", "seven grey owls", "the sea at night"))
    ]
    (tmp_path / "in").mkdir()
    for i in range(4):
        Image.effect_noise((64, 64), 40 + 40 * i).convert("RGB").save(tmp_path / "in" / f"{i}.png")
    (tmp_path / "in" / "duels.json").write_text(json.dumps(duels))
    report = prepare("my_source:SOURCE", tmp_path / "in", tmp_path / "out")
    prepared = PreparedSet(tmp_path / "out")
    assert (report.groups, report.pairs) == (3, 3)
    votes = {prepared.pair(row).prompt: prepared.pair(row).votes for row in range(3)}
    assert votes == {x["text"]: (float(x["left_wins"]), 1.0 - x["left_wins"]) for x in duels}


def test_the_test_split_of_a_source_of_ones_own_stays_whole(tmp_path):
    split = 'split="test" if record.row % 2 else "train"'
    code = FILES["my_source.py"].replace("images, votes))", f"images, votes, {split}))")
    code = code.replace('name="duels"', 'test_splits=("test",), name="duels"')
    (tmp_path / "own" / "my_source.py").write_text(code)
    duels = [
        {
            "text": f"{'abcdef'[i]} thing",
            "left": f"{i}.png",
            "right": f"{i + 1}.png",
            "left_wins": 1,
        }
        for i in range(6)
    ]
    (tmp_path / "in").mkdir()
    for i in range(7):
        noise = Image.effect_noise((64, 64), 40 + 20 * i).convert("RGB")
        noise.save(tmp_path / "in" / f"{i}.png")
    (tmp_path / "in" / "duels.json").write_text(json.dumps(duels))
    report = prepare(
        "my_source:SOURCE", tmp_path / "in", tmp_path / "out", split_fractions={"train": 1.0}
    )
    assert report.splits["test"]["groups"] == 3


@pytest.mark.parametrize(
    ("field", "value", "told"),
    [
        ("algorithm", "nowhere:Class", "algorithm: 'nowhere:Class' cannot be imported"),
        ("algorithm", "my_rewards:np", "algorithm: 'my_rewards:np' is no subclass"),
        ("rewards.weights", {"my_rewards:np": 1.0}, "rewards.weights: .* is no function"),
        ("rewards.weights", {":f": 1.0}, "rewards.weights: .* cannot be imported"),
        ("algorithm", ":Class", "algorithm: ':Class' cannot be imported"),
        ("rewards.weights", {"my_rewards:none": 1.0}, "rewards.weights: .* cannot be imported"),
        ("rewards.weights", {"brevity": 1.0}, "rewards.weights: unknown reward term 'brevity'"),
        ("rewards.weights", {"format": 1.0}, "rewards.weights: 'format' has a field of its own"),
    ],
)
def test_what_is_none_is_told(field, value, told, tmp_path):
    values = tiny_config(tmp_path).to_dict()
    *parents, last = field.split(".")
    part = values[parents[0]] if parents else values
    part[last] = value
    with pytest.raises(ConfigError, match=told):
        parse_config(values, algorithm_problems)


def test_a_reward_in_a_package_is_named_in_a_config_file(tmp_path):
    """Whose names of fields have no dots."""
    package = tmp_path / "own" / "kit"
    package.mkdir()
    (package / "rewards.py").write_text(FILES["my_rewards.py"])
    values = preset_config("tiny")
    values.data.path, values.data.source = str(tmp_path), "hpdv2"
    values.rewards.weights = {"kit/rewards:names_the_caption": 0.2}
    config = parse_config(values, algorithm_problems)
    assert config.reward_weights["kit/rewards:names_the_caption"] == 0.2


def test_one_of_ones_own_that_asks_no_listener_loads_none(tmp_path):
    (tmp_path / "own" / "my_plain.py").write_text(
        "from lrt_jax.algorithms.grpo import GRPO\n\nclass Plain(GRPO):\n    pass\n"
    )
    values = tiny_config(tmp_path).to_dict() | {"algorithm": "my_plain:Plain"}
    with pytest.raises(ConfigError, match="listener.weight: .* set it to 0"):
        parse_config(values, algorithm_problems)
    values["listener"]["weight"] = 0.0
    assert not parse_config(values, algorithm_problems).uses_listener


def test_the_table_of_rooms_is_the_packages():
    from tests.test_rooms import ROOMS

    [section] = re.findall(r"## The rooms\n(.*?)\n## ", PAGE, re.DOTALL)
    named = re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)
    assert [room for room in ROOMS if room != "assets"] == named
