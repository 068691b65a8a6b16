"""Draw learning curves of one run.

``Figure`` objects hold no global state, so a callback may draw at any time.
"""

import csv
import io
import math
from array import array
from itertools import cycle
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, PercentFormatter
from numpy.typing import NDArray

from fewshot.errors import UserError
from fewshot.figures.png import write_png
from fewshot.files import MEGABYTE, read_text

Points = tuple[NDArray[np.float64], NDArray[np.float64]]  # x and y of one curve

_TRAIN = "#2166ac"
_VALIDATION = "#d95f02"
_TERMS = ("#1b9e77", "#7570b3", "#e7298a", "#a6761d", "#e6ab02")
_DECISIONS = {
    "train/real_accuracy": "real images taken for real",
    "train/fake_accuracy": "fakes taken for fake",
    "train/fake_diversity": "spread of fakes / of real images",
}
_MOST_BYTES = 128 * MEGABYTE
_MOST_CELLS = 50_000_000
_FEW = 30  # fewer points than this are drawn as they are, with markers


def learning_curves(metrics_csv: Path, target: Path) -> None:
    """Draw losses and accuracies against training episodes.

    Training losses are above, training and validation accuracy below.

    A third panel, where the run has generated images: how often D takes real ones for real and fakes for fake,
    and the spread of a task's fakes beside that of its real images.

    The x axis is ``episodes``, looked up by ``step`` in the rows that have only that, or ``step``
    itself in a file without episodes. Curves of many points are drawn faint, with a centred moving
    mean over 1/25 of them on top.

    Raises:
        UserError: the file cannot be read, or has no loss and no accuracy.
    """
    columns, x_name = read_metrics(metrics_csv, "episodes")
    losses = {name: points for name, points in columns.items() if name.startswith("train/") and name.endswith("loss")}
    if not losses and "train/accuracy" not in columns and "val/accuracy" not in columns:
        raise UserError(f"{metrics_csv}: no train/loss, train/accuracy or val/accuracy in it")
    decisions = {label: columns[name] for name, label in _DECISIONS.items() if name in columns}
    panels = 3 if decisions else 2
    figure = Figure(figsize=(7, 2.75 * panels), layout="constrained")
    top, bottom, *third = all_axes = figure.subplots(panels, 1, sharex=True)
    if "train/loss" in losses:
        _curve(top, losses["train/loss"], _TRAIN, "loss")
    terms = [name for name in losses if name != "train/loss"]
    for name, colour in zip(terms, cycle(_TERMS), strict=False):
        _curve(top, losses[name], colour, name.removeprefix("train/").replace("_", " "), raw=False)
    if "train/accuracy" in columns:
        _curve(bottom, columns["train/accuracy"], _TRAIN, "train")
    if "val/accuracy" in columns:
        # Validation is rare and each value is already a mean over episodes: no smoothing.
        x, y = columns["val/accuracy"]
        bottom.plot(x, y, "o-" if len(x) < 2 * _FEW else "-", color=_VALIDATION, ms=3.5, lw=1.5, label="validation")
    if losses and _is_uneven(np.concatenate([y for _, y in losses.values()])):
        top.set_yscale("log")
    top.set_ylabel("training loss")
    bottom.set_ylabel("accuracy")
    for axes in third:
        for (label, points), colour in zip(decisions.items(), _TERMS, strict=False):
            _curve(axes, points, colour, label)
        axes.set_ylabel("real or fake")
        axes.yaxis.set_major_formatter(PercentFormatter(1))
    bottom.yaxis.set_major_formatter(PercentFormatter(1))
    all_axes[-1].set_xlabel(f"training {x_name}")
    all_axes[-1].xaxis.set_major_formatter(EngFormatter(sep=""))
    for axes in all_axes:
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(frameon=False, fontsize=8)
    write_png(target, figure, formulas=True)


def _curve(axes: Axes, points: Points, colour: str, label: str, raw: bool = True) -> None:
    x, y = points
    if len(x) < _FEW:
        axes.plot(x, y, "o-", color=colour, ms=3, lw=1.2, label=label)
        return
    if raw:
        axes.plot(x, y, color=colour, lw=0.6, alpha=0.3)
    axes.plot(x, _smooth(y, len(y) // 25), color=colour, lw=1.6, label=label)


def _smooth(y: NDArray[np.float64], width: int) -> NDArray[np.float64]:
    """Return a centred moving mean.

    The window is ``width`` points (made odd), fewer at the two ends.
    """
    window = np.ones(2 * (width // 2) + 1)
    return np.convolve(y, window, "same") / np.convolve(np.ones_like(y), window, "same")


def _is_uneven(y: NDArray[np.float64]) -> bool:
    """Return whether an outburst flattens the curve.

    One early outburst would flatten everything else on a linear axis.
    """
    return bool(y.min() > 0 and y.max() > 20 * np.median(y))


def read_metrics(file: Path, x_name: str) -> tuple[dict[str, Points], str]:
    """Read the finite values of every column.

    Return also their x, and the name of the quantity that x counts. X counts ``x_name``, or steps in a file without
    ``x_name``.

    Raises:
        UserError: the file cannot be read.
    """
    columns = _read_columns(file)
    unknown = np.full(len(next(iter(columns.values()), ())), math.nan)
    steps = columns.get("step", unknown)
    x = columns.get(x_name, unknown)
    known = np.isfinite(x) & np.isfinite(steps)
    if known.any():
        # Lightning logs validation in rows of its own, which may lack what x counts.
        order = np.argsort(steps[known], kind="stable")
        # Before the first such row as after it, from nothing at the start.
        looked_up = np.interp(steps, np.append(-1, steps[known][order]), np.append(0, x[known][order]))
        x = np.where(np.isfinite(x), x, looked_up)
    elif not np.isfinite(x).any():
        x = steps
        x_name = "step"
    points = {}
    for name, y in columns.items():
        use = np.flatnonzero(np.isfinite(x) & np.isfinite(y))
        use = use[np.argsort(x[use], kind="stable")]  # a resumed run may log some steps twice
        if len(use):
            points[name] = x[use], y[use]
    return points, x_name


def _read_columns(file: Path) -> dict[str, NDArray[np.float64]]:
    """Read every named column ``(rows,)``.

    A cell without a number is nan.
    """
    rows = csv.reader(io.StringIO(read_text(file, inside=file.parent, most=_MOST_BYTES), newline=None))
    try:
        places = {name: place for place, name in enumerate(next(rows, [])) if name}
        columns: dict[str, array[float]] = {name: array("d") for name in places}
        count = 0
        for row in rows:
            if not row:
                continue
            count += len(places)
            if count > _MOST_CELLS:
                raise UserError(f"{file}: more than {_MOST_CELLS:,} cells")
            for name, place in places.items():
                columns[name].append(_number(row[place]) if place < len(row) else math.nan)
    except csv.Error as error:
        raise UserError(f"{file}: line {rows.line_num} is not CSV ({error})") from error
    return {name: np.array(values) for name, values in columns.items()}


def _number(cell: str) -> float:
    try:
        return float(cell or "nan")
    except ValueError:
        return math.nan
