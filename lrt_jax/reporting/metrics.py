"""A run's numbers: one JSON line a step, the same for TensorBoard, and a line on the terminal."""

import collections
import contextlib
import json
import math
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, TextIO

from etils import epath
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary

from lrt_jax.storage.disk import explain, write_atomically

FILE = "metrics.jsonl"
# What is raised over a line that is not of metrics.
NO_METRICS = (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError)
TENSORBOARD = "tensorboard"  # folder of the event files

Scalar = Any  # a Python, NumPy or JAX number without dimensions


class MetricsWriter(contextlib.AbstractContextManager):
    """Appends a line to `metrics.jsonl` for every step, and the same numbers for TensorBoard.

    A context manager, for one process of a run. Steps must rise, so that a file has one line each:
    merge what belongs to one step before writing it.

    Args:
      workdir: the run's folder, made if it is not there.
      resume_step: the checkpoint that the run goes on from. Lines of later steps are cut off, as
        those steps will be run again. None starts an empty file.

    Raises:
      ValueError: a line of an existing file, other than a broken last one, cannot be read.
    """

    def __init__(self, workdir: epath.PathLike, resume_step: int | None = None):
        self._path = epath.Path(workdir) / FILE
        kept = [] if resume_step is None else _lines_until(self._path, resume_step)
        write_atomically(self._path, "".join(line for _, line in kept).encode())
        self._last_step = kept[-1][0] if kept else -1
        self._tensorboard = _TensorBoard(self._path.parent / TENSORBOARD)
        # Tells TensorBoard to hide what an earlier attempt wrote from this step on.
        start = SessionLog(status=SessionLog.START)
        self._tensorboard.write(0 if resume_step is None else resume_step + 1, session_log=start)

    def write(self, step: int, metrics: Mapping[str, Scalar]) -> None:
        """Writes one step. Names may be paths, as in `reward/listener`.

        Raises:
          ValueError: a value is not finite, a metric is named `step`, or the step does not come
            after the last one. Nothing is written then.
        """
        if "step" in metrics:
            raise ValueError("a metric cannot be named 'step', which is a field of every line")
        if step <= self._last_step:
            raise ValueError(f"metrics of step {step} after those of step {self._last_step}")
        numbers = {name: _finite(name, step, value) for name, value in metrics.items()}
        _append(self._path, json.dumps({"step": step, **numbers}) + "\n")
        values = [Summary.Value(tag=name, simple_value=x) for name, x in numbers.items()]
        self._tensorboard.write(step, summary=Summary(value=values))
        self._last_step = step

    def close(self) -> None:
        """Ends TensorBoard's event file."""
        self._tensorboard.close()

    def __exit__(self, *_: object) -> None:
        self.close()


class _TensorBoard:
    """An event file, written at once: the library's own writer does so in a thread, and a disk
    that refuses ends that thread and leaves the run waiting for it."""

    def __init__(self, folder: epath.Path):
        self._folder = folder
        with explain(folder):
            folder.mkdir(parents=True, exist_ok=True)
            self._file = EventsWriter(str(folder / "events"))

    def write(self, step: int, **what) -> None:
        with explain(self._folder):
            self._file.write_event(Event(step=step, wall_time=time.time(), **what))
            self._file.flush()

    def close(self) -> None:
        with explain(self._folder):
            self._file.close()


def read_metrics(workdir: epath.PathLike) -> list[dict[str, float]]:
    """Every line of a run's `metrics.jsonl`, in the order of steps; a broken last one is left out.

    Raises:
      ValueError: another line cannot be read.
    """
    lines = _lines_until(epath.Path(workdir) / FILE, sys.maxsize)
    return [json.loads(line) for _, line in lines]


def _lines_until(path: epath.Path, step: int) -> list[tuple[int, str]]:
    """Step and text of the lines up to `step`, both ends included."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    if lines and not lines[-1].endswith("\n"):
        lines.pop()  # the run was killed while it wrote this one
    steps = [_step_of(line, f"{path}:{number}") for number, line in enumerate(lines, 1)]
    return [(s, line) for s, line in zip(steps, lines, strict=True) if s <= step]


def _step_of(line: str, origin: str) -> int:
    try:
        metrics = json.loads(line)
        if wrong := [name for name, x in metrics.items() if not isinstance(x, int | float)]:
            raise TypeError(f"{', '.join(wrong)}: no number")
        return int(metrics["step"])
    except NO_METRICS as error:
        raise ValueError(
            f"{origin}: not a line of metrics with a step: {line.strip()!r:.100}; mend or remove it"
        ) from error


def _finite(name: str, step: int, value: Scalar) -> float | int:
    number = int(value) if isinstance(value, int) else float(value)
    if not math.isfinite(number):
        raise ValueError(f"metric {name!r} is {number} at step {step}")
    return number


def _append(path: epath.Path, line: str) -> None:
    if not path.exists():  # appending would begin a new file in place of the lost one
        raise FileNotFoundError(
            f"{path}: gone since the last step; was the workdir removed, moved or unmounted?"
        )
    with explain(path), path.open("a", encoding="utf-8") as file:
        file.write(line)


class ProgressLine:
    """Prints a line for a step, the same on a terminal and in a log file:

        step 12/20 reward 1.43 (format .92 accuracy .61) 1,240 tokens/s 1.8 s/step ETA 0:14

    The time per step is the median of the last ones, leaving out the first, which compiles; until a
    second step is done there is no forecast.

    Args:
      total: the run's last step.
      start: the step that the run goes on from, 0 for a new one.
      every_seconds: least time between two lines; the first and the last step are always printed.
      out: where to, by default the standard output of the moment.
      clock: seconds, monotonic.
    """

    WINDOW = 50  # steps of the median

    def __init__(
        self,
        total: int,
        *,
        start: int = 0,
        every_seconds: float = 0.0,
        out: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._total, self._every, self._out, self._clock = total, every_seconds, out, clock
        self._step, self._time = start, clock()
        self._printed = -math.inf  # when; the first line is always due
        self._compiled = False
        self._durations: collections.deque[float] = collections.deque(maxlen=self.WINDOW)

    def update(
        self,
        step: int,
        values: Mapping[str, Scalar],
        terms: Mapping[str, Scalar] | None = None,
        tokens: int | None = None,
    ) -> None:
        """Tells that `step` is done.

        Args:
          step: number of the step, from 1.
          values: what to show first, such as the reward or the loss.
          terms: what the last value is made of, in parentheses.
          tokens: generated, or learnt from, since the last call.
        """
        now = self._clock()
        elapsed, steps = now - self._time, max(step - self._step, 1)
        self._step, self._time = step, now
        if self._compiled:
            self._durations.append(elapsed / steps)
        per_step = statistics.median(self._durations) if self._durations else elapsed / steps
        forecast = (self._total - step) * per_step if self._compiled else None
        self._compiled = True
        if self._is_due(now):
            parts = [f"step {step}/{self._total}", *_named(values)]
            parts += [f"({' '.join(_named(terms))})"] if terms else []
            parts += [f"{tokens / max(elapsed, 1e-9):,.0f} tokens/s"] if tokens is not None else []
            parts += [f"{per_step:.2g} s/step" if per_step < 10 else f"{per_step:,.0f} s/step"]
            parts += [f"ETA {_clock_face(forecast)}"]
            print(" ".join(parts), file=self._out or sys.stdout, flush=True)

    def _is_due(self, now: float) -> bool:
        due = now - self._printed >= self._every or self._step >= self._total
        if due:
            self._printed = now
        return due


def _named(values: Mapping[str, Scalar]) -> list[str]:
    return [f"{name} {_short(float(value))}" for name, value in values.items()]


def _short(value: float) -> str:
    """Two decimals and no leading zero: `1.43`, `.92`, `-.05`; small ones as `3.1e-04`."""
    if value and abs(value) < 0.005:
        return f"{value:.1e}"
    text = f"{value:,.2f}"
    return text.replace("0.", ".", 1) if text.lstrip("-").startswith("0.") else text


def _clock_face(seconds: float | None) -> str:
    """`0:14`, `12:05`, `3:07:30`; `-:--` where it is not known yet."""
    if seconds is None:
        return "-:--"
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"
