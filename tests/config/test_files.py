"""Configs by name and by path."""

from pathlib import Path

import pytest

from lrt_jax.cli.commands import config_flag_problems
from lrt_jax.config.files import config_path, packaged_configs, presets_of

CONFIGS = Path(__file__).parents[2] / "configs"
NAMES = ["hpdv2", "imagereward", "scenes"]


def test_a_name_is_a_packaged_config_and_all_else_a_path(tmp_path, monkeypatch):
    (tmp_path / "imagereward.py").write_text("def get_config(preset): ...")
    monkeypatch.chdir(tmp_path)
    assert config_path("imagereward") == CONFIGS / "imagereward.py"
    for path in ("imagereward.py", "./imagereward.py", str(CONFIGS / "scenes.py")):
        assert config_path(path) == Path(path)
    with pytest.raises(ValueError, match="there is no file ./imagereward; "):
        config_path("./imagereward")


@pytest.mark.parametrize("value", ["imagreward:tiny", "configs/imagreward.py"])
def test_a_config_that_is_missing_is_told_with_those_there_are(value, tmp_path, monkeypatch):
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "mine.py").write_text("def get_config(preset): ...")
    (tmp_path / "configs" / "other.py").write_text("x = 1")
    monkeypatch.chdir(tmp_path)
    what = "file configs/imagreward.py" if "/" in value else "config imagreward"
    ((_, told),) = config_flag_problems([f"--config={value}"])
    listed = ", ".join([*NAMES, "configs/mine.py"])
    assert told == (
        f"--config={value}: there is no {what}; there are {listed}, with presets after a colon, as "
        "in :tiny; did you mean imagereward?"
    )


def test_the_name_of_a_file_here_leads_to_its_path(tmp_path, monkeypatch):
    (tmp_path / "my_run.py").write_text("def get_config(preset): ...")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="no config my_run; .* did you mean my_run.py[?]$"):
        config_path("my_run")


def test_packaged_configs_say_which_presets_they_take():
    assert {name: presets_of(file) for name, file in packaged_configs().items()} == {
        "hpdv2": ["auto", "tiny", "3b", "7b"],
        "imagereward": ["auto", "tiny", "3b", "7b"],
        "scenes": ["sft", "sft_listener"],
    }
