"""How a run went, as one picture."""

import dataclasses
import io
import itertools
from collections.abc import Mapping, Sequence

import numpy as np
from etils import epath

from lrt_jax.storage.disk import write_atomically

FILE = "curves.png"
WINDOW = 10  # steps of the moving mean; the steps themselves are drawn faintly


@dataclasses.dataclass(frozen=True)
class Panel:
    """One diagram.

    Attributes:
      title: what it shows.
      lines: fields of `metrics.jsonl` by their label.
      points: fields of an evaluation by their label.
    """

    title: str
    lines: Mapping[str, str]
    points: Mapping[str, str] = dataclasses.field(default_factory=dict)


# Of every algorithm.
ACCURACY = {"held out, sampled": "accuracy", "held out, greedy": "accuracy_greedy"}


def draw_curves(
    workdir: epath.PathLike,
    title: str,
    panels: Sequence[Panel],
    metrics: Sequence[Mapping[str, float]],
    evaluations: Sequence[Mapping],
) -> epath.Path:
    """Draws `WORKDIR/curves.png`: metrics of each step as lines, evaluations as points.

    Args:
      workdir: the run's folder.
      title: over the picture.
      panels: what to draw; those of which nothing is known are left out.
      metrics: lines of `metrics.jsonl`.
      evaluations: what the files in `eval/` hold; a `NAME_ci95` becomes a bar.

    Returns:
      The picture's path.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels = [panel for panel in panels if _is_known(panel, metrics, evaluations)]
    columns = max(1, min(3, len(panels)))
    rows = -(-len(panels) // columns)
    width, height = 4.4 * columns, 3.0 * rows + 0.5
    figure = Figure(figsize=(width, height))  # a layout that is solved for takes twice as long
    figure.subplots_adjust(
        left=0.6 / width,
        right=1 - 0.15 / width,
        wspace=0.21,
        bottom=0.5 / height,
        top=1 - 0.75 / height,
        hspace=0.38,
    )
    FigureCanvasAgg(figure)
    figure.suptitle(title)
    for number, panel in enumerate(panels, start=1):
        axes = figure.add_subplot(rows, columns, number)
        _draw_lines(axes, panel, metrics)
        _draw_points(axes, panel, evaluations)
        axes.set_title(panel.title, fontsize=10)
        axes.set_xlabel("step")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=100)
    path = epath.Path(workdir) / FILE
    write_atomically(path, file.getvalue())
    return path


def _is_known(panel: Panel, metrics, evaluations) -> bool:
    drawn = [(panel.lines, metrics), (panel.points, evaluations)]
    return any(
        row.get(f) is not None for fields, rows in drawn for f in fields.values() for row in rows
    )


def _draw_lines(axes, panel: Panel, metrics) -> None:
    for label, field in panel.lines.items():
        points = [(row["step"], row[field]) for row in metrics if field in row]
        if points:
            steps, values = np.transpose(points)
            (line,) = axes.plot(steps, _moving_mean(values), label=label)
            axes.plot(steps, values, color=line.get_color(), alpha=0.2, linewidth=0.8)


def _moving_mean(values: np.ndarray) -> np.ndarray:
    """Of the last `WINDOW` values, or as many as there are."""
    sums = np.concatenate([[0.0], np.cumsum(values)])
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(ends - WINDOW, 0)
    return (sums[ends] - sums[starts]) / (ends - starts)


def _draw_points(axes, panel: Panel, evaluations) -> None:
    for marker, (label, field) in zip(itertools.cycle("osD"), panel.points.items(), strict=False):
        points = [(e["step"], e.get(field), e.get(f"{field}_ci95")) for e in evaluations]
        points = [(s, value, ci or (value, value)) for s, value, ci in points if value is not None]
        if points:
            steps, values, intervals = zip(*points, strict=True)
            bars = np.abs(np.transpose(intervals) - np.array(values))
            axes.errorbar(steps, values, yerr=bars, fmt=f"{marker}--", capsize=3, label=label)
