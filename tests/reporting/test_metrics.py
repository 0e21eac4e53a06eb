import io
import json
import os
import shutil
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest
from tensorboardX.proto.event_pb2 import Event, SessionLog

from lrt_jax.reporting.metrics import MetricsWriter, ProgressLine, read_metrics


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def write_steps(folder, steps, **kwargs):
    with MetricsWriter(folder, **kwargs) as writer:
        for step in steps:
            writer.write(step, {"loss": step / 2})


def test_one_line_a_step_with_plain_numbers(tmp_path):
    with MetricsWriter(tmp_path / "new") as writer:
        writer.write(3, {"reward/listener": np.float32(0.5), "loss": jnp.float32(2), "tokens": 7})
        assert lines(tmp_path / "new")  # on disk before the writer is closed
    text = (tmp_path / "new" / "metrics.jsonl").read_text()
    assert text == '{"step": 3, "reward/listener": 0.5, "loss": 2.0, "tokens": 7}\n'


@pytest.mark.parametrize("bad", [float("nan"), np.inf, jnp.float32(-jnp.inf)])
def test_a_number_that_is_not_finite_is_named_and_nothing_is_written(tmp_path, bad):
    with MetricsWriter(tmp_path) as writer:
        with pytest.raises(ValueError, match="'reward/listener' is .* at step 4"):
            writer.write(4, {"loss": 1.0, "reward/listener": bad})
        writer.write(4, {"loss": 1.0})
    assert lines(tmp_path) == [{"step": 4, "loss": 1.0}]


def test_a_workdir_that_is_lost_is_told(tmp_path):
    with MetricsWriter(tmp_path / "run") as writer:
        writer.write(1, {"loss": 1.0})
        shutil.rmtree(tmp_path / "run")
        with pytest.raises(FileNotFoundError, match=r"metrics.jsonl: gone .* removed"):
            writer.write(2, {"loss": 1.0})
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_steps_must_rise_and_step_is_no_metric(tmp_path):
    with MetricsWriter(tmp_path) as writer:
        writer.write(1, {"loss": 1.0})
        with pytest.raises(ValueError, match="step 1 after those of step 1"):
            writer.write(1, {"loss": 2.0})
        with pytest.raises(ValueError, match="'step'"):
            writer.write(2, {"step": 2.0})
    assert lines(tmp_path) == [{"step": 1, "loss": 1.0}]


def test_resuming_cuts_back_to_the_checkpoint_and_goes_on(tmp_path):
    write_steps(tmp_path, range(1, 8))
    write_steps(tmp_path, range(6, 9), resume_step=5)
    assert [line["step"] for line in lines(tmp_path)] == list(range(1, 9))
    with MetricsWriter(tmp_path, resume_step=3) as writer, pytest.raises(ValueError, match="after"):
        writer.write(3, {})


def test_a_new_run_starts_an_empty_file(tmp_path):
    write_steps(tmp_path, range(1, 4))
    write_steps(tmp_path, [])
    assert lines(tmp_path) == []


def test_a_line_that_was_cut_off_by_a_kill_is_dropped_but_a_broken_one_is_told(tmp_path):
    write_steps(tmp_path, [1, 2])
    path = tmp_path / "metrics.jsonl"
    whole = path.read_text()
    path.write_text(whole + '{"step": 3, "lo')
    assert [line["step"] for line in read_metrics(tmp_path)] == [1, 2]
    write_steps(tmp_path, [3], resume_step=2)
    assert [line["step"] for line in lines(tmp_path)] == [1, 2, 3]
    path.write_text('{"loss": 1}\n' + whole)
    with pytest.raises(ValueError, match=r"metrics\.jsonl:1: .*loss"):
        MetricsWriter(tmp_path, resume_step=2)


def test_cutting_back_leaves_the_old_file_if_it_is_interrupted(tmp_path, monkeypatch):
    write_steps(tmp_path, range(1, 4))
    before = (tmp_path / "metrics.jsonl").read_bytes()

    def killed(self, target):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        MetricsWriter(tmp_path, resume_step=1)
    assert (tmp_path / "metrics.jsonl").read_bytes() == before


def tensorboard_events(path):
    blob, place = path.read_bytes(), 0
    while place < len(blob):  # TFRecord: length, its checksum, the event, its checksum
        size = int.from_bytes(blob[place : place + 8], "little")
        yield Event.FromString(blob[place + 12 : place + 12 + size])
        place += size + 16


def test_tensorboard_gets_the_same_numbers(tmp_path):
    write_steps(tmp_path, [1, 2])
    (path,) = (tmp_path / "tensorboard").iterdir()
    values = [(e.step, v) for e in tensorboard_events(path) for v in e.summary.value]
    seen = [(step, value.tag, value.simple_value) for step, value in values]
    assert seen == [(1, "loss", 0.5), (2, "loss", 1.0)]


@pytest.mark.parametrize("resume_step, hidden_from", [(5, 6), (None, 0)])
def test_tensorboard_hides_the_steps_that_are_run_again(tmp_path, resume_step, hidden_from):
    write_steps(tmp_path, [], resume_step=resume_step)
    (path,) = (tmp_path / "tensorboard").iterdir()
    starts = [e.step for e in tensorboard_events(path) if e.session_log.status == SessionLog.START]
    assert starts == [hidden_from]


def test_writing_needs_neither_tensorflow_nor_torch(tmp_path):
    script = (
        "import sys; sys.modules.update(tensorflow=None, torch=None)\n"  # importing them fails
        "from lrt_jax.reporting.metrics import MetricsWriter\n"
        "with MetricsWriter(sys.argv[1]) as writer: writer.write(1, {'loss': 1.0})"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=True)
    assert lines(tmp_path) == [{"step": 1, "loss": 1.0}] and any(
        (tmp_path / "tensorboard").iterdir()
    )


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def progress(total, **kwargs):
    clock, out = Clock(), io.StringIO()
    return ProgressLine(total, out=out, clock=clock, **kwargs), clock, out


def test_the_line_reads_as_promised():
    line, clock, out = progress(20, start=10)
    clock.now = 60.0
    line.update(11, {"reward": 0.5}, {"format": 1.0}, tokens=600)
    assert out.getvalue() == "step 11/20 reward .50 (format 1.00) 10 tokens/s 60 s/step ETA -:--\n"
    clock.now = 61.8
    terms = {"format": jnp.float32(0.92), "accuracy": 0.61, "listener": -0.05}
    line.update(12, {"kl": 0.0003, "reward": 1.432}, terms, tokens=2232)
    assert out.getvalue().splitlines()[1] == (
        "step 12/20 kl 3.0e-04 reward 1.43 (format .92 accuracy .61 listener -.05) "
        "1,240 tokens/s 1.8 s/step ETA 0:14"
    )


def test_the_forecast_ignores_compilation_and_a_rare_slow_step():
    line, clock, out = progress(1000)
    for step in range(1, 12):
        clock.now += 500.0 if step == 1 else 90.0 if step == 7 else 2.0
        line.update(step, {"loss": 1.0})
    assert out.getvalue().splitlines()[-1] == "step 11/1000 loss 1.00 2 s/step ETA 32:58"


def test_steps_that_are_told_together_count_each():
    line, clock, out = progress(100)
    line.update(10, {})
    clock.now = 30.0
    line.update(20, {})
    assert out.getvalue().splitlines()[-1] == "step 20/100 3 s/step ETA 4:00"


def test_lines_can_be_rationed_but_the_last_step_is_printed():
    line, clock, out = progress(11, every_seconds=5.0)
    for step in range(1, 12):
        clock.now += 2.0
        line.update(step, {})
    printed = [row.split()[1] for row in out.getvalue().splitlines()]
    assert printed == ["1/11", "4/11", "7/11", "10/11", "11/11"]


def test_default_output_is_standard_output(capsys):
    ProgressLine(1).update(1, {"loss": 2.0})
    assert capsys.readouterr().out.startswith("step 1/1 loss 2.00 ")
