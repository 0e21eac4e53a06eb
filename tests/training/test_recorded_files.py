"""Files of a run that somebody has changed are named."""

import json

import pytest

from lrt_jax.reporting.metrics import read_metrics
from lrt_jax.training.files import record_config, recorded_config
from tests.training.small_run import tiny_config


@pytest.mark.parametrize("change", [{"inputs": 10**30}, {"config": []}, {"launches": "x"}])
def test_a_recorded_config_of_other_types(change, tmp_path):
    record_config(tiny_config("data"), {"model": "1"}, tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ValueError, match="config.json: not what a run writes; restore it"):
        recorded_config(tmp_path)


@pytest.mark.parametrize("line", ['{"step": 1, "loss": []}', '{"step": "1"}', "[1]", "7"])
def test_metrics_that_are_no_numbers(line, tmp_path):
    (tmp_path / "metrics.jsonl").write_text(line + "\n")
    with pytest.raises(ValueError, match="metrics.jsonl:1: not a line of metrics with a step"):
        read_metrics(tmp_path)
