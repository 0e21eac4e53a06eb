"""A family of models is a folder of `lrt_jax/models`: everything else runs with another one."""

import json
import shutil
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from lrt_jax import assets, models
from lrt_jax.config import parse_config
from lrt_jax.models import load_model, save_pretrained
from lrt_jax.reporting.metrics import read_metrics
from lrt_jax.storage.workdir import LocalWorkdir
from lrt_jax.training.loop import train
from tests.training.small_run import tiny_config, write_hpdv2


@pytest.fixture
def toy(tmp_path, monkeypatch) -> Path:
    """A checkpoint of a family that is one file more."""
    package = tmp_path / "models" / "toy"
    package.mkdir(parents=True)
    shutil.copy(Path(__file__).with_name("toy_family.py"), package / "__init__.py")
    monkeypatch.setattr(models, "__path__", [*models.__path__, str(package.parent)])
    folder = tmp_path / "checkpoint"
    shutil.copytree(assets.tiny_model(), folder, ignore=shutil.ignore_patterns("*.safetensors"))
    config = json.loads((folder / "config.json").read_bytes())
    config |= {"model_type": "toy", "hidden_size": 16}
    (folder / "config.json").write_text(json.dumps(config))
    _, params = load_model(folder, seed=0)
    save_pretrained(params, tmp_path / "toy", source=folder)
    yield tmp_path / "toy"
    del sys.modules["lrt_jax.models.toy"]


def length(inputs):
    """A reward for which nothing need be known."""
    return np.array([[len(text) for text in texts] for texts in inputs.texts], np.float32)


def test_a_run_with_another_family(toy, tmp_path):
    """Reasoner, reference and listener have a state that is no keys and values."""
    data = write_hpdv2(tmp_path / "data")
    changes = {"steps": 2, "eval.pairs": 2, "eval.every": 0, "model.path": str(toy)}
    values = tiny_config(data, **changes | {"loss.beta": 0.1, "listener.style": "judge"}).to_dict()
    values["rewards"]["weights"] = {f"{__name__}:length": 1.0}
    results = train(parse_config(values), LocalWorkdir(tmp_path / "run"))
    assert results["steps"] == 2 and results["after"]["pairs"] == 2
    for line in read_metrics(tmp_path / "run"):
        assert line["sampler_drift_max"] < 1e-5  # of log-probs, decoded and scored
    model, trained = load_model(tmp_path / "run" / "export")
    _, before = load_model(toy)
    assert type(model).__name__ == "Toy"
    same = jax.tree.map(np.array_equal, before, trained)
    assert same == {"decay": False, "embedding": False, "vision": {"kernel": True}}  # is frozen
