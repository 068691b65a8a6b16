"""Draw charts of several runs together.

Charts show accuracies, validation curves, accuracies of each test episode, and calibration.

A row of the table has one colour in all figures. Of a long table the first rows are drawn, and a line says so.
Each function that may have nothing to draw returns whether something was drawn.
"""

import logging
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from textwrap import fill, shorten
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, MaxNLocator, PercentFormatter

from fewshot.calibration import pooled
from fewshot.errors import UserError
from fewshot.figures.learning_curves import Points, read_metrics
from fewshot.figures.png import write_png
from fewshot.files import printable
from fewshot.report.formats import plus_minus
from fewshot.report.table import Row, Table

log = logging.getLogger(__name__)

Both = tuple[list[Points], list[Points]]  # a curve a seed, over steps and over seconds

_COLOURS = (
    "#2166ac",
    "#d95f02",
    "#1b9e77",
    "#e7298a",
    "#7570b3",
    "#a6761d",
    "#66a61e",
    "#e6ab02",
    "#17becf",
    "#444444",
)
_CLOSE = 0.15  # accuracies of all rows within this are shown again at a larger scale
_STYLES = (("-", "o"), ("--", "s"), (":", "^"))  # of line and marker, after all colours
_FEW = 12  # fewer points of a curve have markers
_WIDE = 72  # characters of a label on one line of a legend
_BELOW_TITLE: dict[str, Any] = {"ha": "center", "va": "bottom", "fontsize": 8, "color": "#444444"}
_SIDE = 2.7  # inches of a square panel
_ACROSS = 4  # panels side by side
_MOST_BARS = 100  # rows of the chart of accuracies
_MOST_PANELS = 48
_MOST_GROUPS = 12  # of validation curves
_MOST_CURVES = 40  # rows of a group
_LARGEST_X = 1e15  # steps or seconds that a plot can show


def accuracies(table: Table, target: Path, chance: float | None = None) -> None:
    """Draw the test accuracies as bars.

    Each row has a bar with its 95% interval.

    Rows that lie close together stand again beside the bars, at a larger scale: the mean with its interval, each
    seed as a small dot. ``chance`` is the accuracy of guessing, a fraction, drawn as a dashed line.
    """
    rows = table.rows[:_MOST_BARS]
    count = len(rows)
    labels = [fill(row.label, _WIDE) for row in rows]
    names = 0.065 * max((len(line) for label in labels for line in label.split("\n")), default=0)  # inches
    lines = max((label.count("\n") for label in labels), default=0)  # beyond the first
    seeds = [run.accuracy.mean() for row in rows for run in row.runs]
    close = any(row.reference for row in rows) and np.ptp(seeds) < _CLOSE
    height = 0.9 + (0.32 + 0.13 * lines) * count
    figure = Figure(figsize=(4.5 + names + 3.2 * close, height), layout="constrained")
    _say_how_many(figure, count, len(table.rows))
    axes, *zoomed = figure.subplots(1, 1 + close, squeeze=False, sharey=True, width_ratios=[4, 3][: 1 + close])[0]
    for place, row in enumerate(rows):
        if not row.runs:
            axes.text(1, place, row.outcome, va="center", color="#b2182b", fontsize=8)
            continue
        error = 0 if math.isnan(row.half_width) else 100 * row.half_width
        axes.barh(place, 100 * row.accuracy, xerr=error, height=0.65, color="#92c5de", ecolor="#222222", capsize=2.5)
        axes.text(100 * row.accuracy + error + 1.5, place, plus_minus(row), va="center", fontsize=8)
        for panel in zoomed:
            panel.errorbar(100 * row.accuracy, place, xerr=error, fmt="o", ms=5, color="#222222", capsize=2.5, lw=1.2)
            if len(row.runs) > 1:
                dots = [100 * run.accuracy.mean() for run in row.runs]
                panel.plot(dots, [place + 0.27] * len(dots), "o", ms=3, color="#d95f02", alpha=0.8)
    if chance is not None:
        axes.axvline(100 * chance, color="#777777", ls="--", lw=1, label=f"chance, {100 * chance:.0f}%")
        figure.legend(loc="outside upper right", frameon=False, fontsize=8)
    axes.set_yticks(range(count), labels, fontsize=8)
    axes.set_ylim(count - 0.5, -0.5)
    axes.set_xlim(0, 120)  # room for the number beside a bar of 100%
    axes.set_xticks(range(0, 101, 20))
    axes.set_xlabel("test accuracy (%), 95% interval over test episodes", fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    for panel in zoomed:
        panel.set_xlabel("close up; dots: seeds" if len(seeds) > count else "close up", fontsize=9)
        panel.grid(axis="x", alpha=0.3)
        panel.tick_params(axis="y", length=0)
        panel.spines[["top", "right", "left"]].set_visible(False)
    write_png(target, figure)


def validation_curves(table: Table, target: Path) -> bool:
    """Draw validation accuracy over steps and time.

    The time is training time. Seeds are thin lines, their mean is thick. A method without training is a horizontal
    line.
    """
    everything = [(rows, {row: _curves(row) for row in rows}) for rows in table.groups]
    everything = [(rows, {row: both for row, both in curves.items() if any(both)}) for rows, curves in everything]
    everything = [(rows, curves) for rows, curves in everything if curves]
    if not everything:
        return False
    groups = [
        (rows, {row: curves[row] for row in list(curves)[:_MOST_CURVES]}) for rows, curves in everything[:_MOST_GROUPS]
    ]
    legends = [[fill(row.label, _WIDE) for row in curves] for _, curves in groups]
    columns = [max(1, min(_ACROSS, 2 * _WIDE // max(map(len, names)))) for names in legends]
    # Room for the lines of the legend, which a layout does not make by itself.
    heights = [
        3.8 + 0.17 * sum(name.count("\n") + 1 for name in names) / across
        for names, across in zip(legends, columns, strict=True)
    ]
    figure = Figure(figsize=(10, sum(heights)), layout="constrained")
    shown, of_all = (sum(len(curves) for _, curves in part) for part in (groups, everything))
    _say_how_many(figure, shown, of_all)
    parts = figure.subfigures(len(groups), 1, squeeze=False, height_ratios=heights)[:, 0]
    for part, (rows, curves), names, across in zip(parts, groups, legends, columns, strict=True):
        steps, seconds = part.subplots(1, 2, sharey=True)
        _steps_and_seconds(steps, seconds, [(both, _look(table, row)) for row, both in curves.items()])
        handles = [Line2D([], [], **_look(table, row), lw=2, ms=4) for row in curves]
        part.legend(handles, names, loc="outside lower center", ncols=across, frameon=False, fontsize=9)
        if len(groups) > 1:
            part.suptitle(rows[0].task, fontsize=11)
    write_png(target, figure)
    return True


def episode_scatter(table: Table, target: Path) -> bool:
    """Draw episode accuracies against the reference's.

    An accuracy is of one test episode, averaged over seeds. A larger dot stands for several episodes.
    """

    def panel(axes: Axes, row: Row) -> None:
        assert row.compared is not None
        # Sums of different seeds may differ in their last digit.
        ours, theirs = (accuracies.round(9) for accuracies in row.compared)
        pairs, counts = np.unique([theirs, ours], axis=1, return_counts=True)
        low = max(0.0, float(pairs.min()) - 0.05)
        axes.plot([low, 1], [low, 1], color="#888888", lw=0.8, zorder=0)
        sizes = np.maximum(4, 220 * counts / max(20, counts.max()))
        axes.scatter(pairs[0], pairs[1], s=sizes, color=_look(table, row)["color"], alpha=0.4, linewidths=0)
        better, worse, equal = (int(which.sum()) for which in (ours > theirs, ours < theirs, ours == theirs))
        counts_text = f"better on {better:,}, worse {worse:,}, equal {equal:,}"
        axes.text(0.5, 1.01, counts_text, **_BELOW_TITLE, transform=axes.transAxes)
        xlabel = shorten(f"reference: {row.reference}", 40, placeholder=" …")
        axes.set(xlim=(low, 1.02), ylim=(low, 1.02), xlabel=xlabel)

    rows = [row for row in table.rows if row.compared is not None]
    return _panels(rows, panel, "accuracy of an episode", target)


def reliability(table: Table, target: Path) -> bool:
    """Draw accuracy against confidence of each row.

    Only rows that have bins are drawn, pooled over their runs. A larger dot stands for more predictions.
    """

    def panel(axes: Axes, row: Row) -> None:
        bins = pooled([run.bins for run in row.runs if run.bins])
        colour = _look(table, row)["color"]
        full = bins.count > 0
        axes.plot([0, 1], [0, 1], color="#888888", lw=0.8, zorder=0)
        axes.plot(bins.confidence[full], bins.accuracy[full], color=colour, lw=1, alpha=0.6)
        sizes = 8 + 300 * bins.count[full] / bins.count.sum()
        style: dict[str, Any] = {"color": colour, "alpha": 0.7, "linewidths": 0, "clip_on": False}
        axes.scatter(bins.confidence[full], bins.accuracy[full], s=sizes, **style)
        if errors := [run.ece for run in row.runs if run.ece is not None]:
            axes.text(0.5, 1.01, f"ECE {100 * np.mean(errors):.1f}%", **_BELOW_TITLE, transform=axes.transAxes)
        axes.set(xlim=(0, 1.03), ylim=(0, 1.03), xlabel="confidence")

    rows = [row for row in table.rows if any(run.bins for run in row.runs)]
    return _panels(rows, panel, "accuracy", target)


def _steps_and_seconds(steps: Axes, seconds: Axes, curves: Sequence[tuple[Both, dict[str, Any]]]) -> None:
    """Draw the rows of one group on two axes."""
    longest = max((x.max() for (_, timed), _ in curves for x, _ in timed), default=0)
    size, name = next(((size, name) for size, name in ((3600, "h"), (60, "min")) if longest > 3 * size), (1, "s"))
    for (counted, timed), look in curves:
        _seeds(steps, counted, look)
        _seeds(seconds, [(x / size, y) for x, y in timed], look)
    steps.set(xlabel="training step", ylabel="validation accuracy")
    steps.xaxis.set_major_locator(MaxNLocator(integer=True))
    steps.xaxis.set_major_formatter(EngFormatter(sep=""))
    steps.yaxis.set_major_formatter(PercentFormatter(1))
    seconds.set_xlabel(f"training time ({name})")
    for axes in (steps, seconds):
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)


def _panels(rows: Sequence[Row], panel: Callable[[Axes, Row], None], ylabel: str, target: Path) -> bool:
    """Draw a labelled square for each row."""
    if not rows:
        return False
    of_all = len(rows)
    rows = rows[:_MOST_PANELS]
    across = min(_ACROSS, len(rows))
    down = math.ceil(len(rows) / across)
    titles = [fill(row.label, 30) for row in rows]
    above = 0.3 + 0.15 * max(title.count("\n") for title in titles)
    figure = Figure(figsize=(_SIDE * across, (_SIDE + above) * down), layout="constrained")
    _say_how_many(figure, len(rows), of_all)
    squares = figure.subplots(down, across, squeeze=False).ravel()
    for number, axes in enumerate(squares):
        if number >= len(rows):
            axes.axis("off")
            continue
        panel(axes, rows[number])
        axes.set_title(titles[number], fontsize=9, pad=16)
        axes.set_ylabel(ylabel if number % across == 0 else "", fontsize=8)
        axes.xaxis.label.set_fontsize(8)
        axes.set_box_aspect(1)
        for side in (axes.xaxis, axes.yaxis):
            side.set_major_formatter(PercentFormatter(1, decimals=0))
            side.set_major_locator(MaxNLocator(5, steps=(1, 2, 5, 10)))
            side.set_tick_params(labelsize=7)
        axes.spines[["top", "right"]].set_visible(False)
    write_png(target, figure)
    return True


def _say_how_many(figure: Figure, shown: int, of_all: int) -> None:
    if shown < of_all:
        figure.suptitle(f"the first {shown} of {of_all} rows", fontsize=9)


def _look(table: Table, row: Row) -> dict[str, Any]:
    """Return a row's colour, line style and marker."""
    place = table.rows.index(row)
    style, marker = _STYLES[place // len(_COLOURS) % len(_STYLES)]
    return {"color": _COLOURS[place % len(_COLOURS)], "linestyle": style, "marker": marker}


def _curves(row: Row) -> Both:
    """Read the validation curves of each seed.

    A curve is the accuracy over steps, and over seconds. A seed without validation, or with a file that cannot be read,
    has no curve.
    """
    both: Both = ([], [])
    for run in row.runs:
        file = run.path / "metrics.csv"
        if not os.path.lexists(file):
            continue
        for name, curves in zip(("step", "seconds"), both, strict=True):
            try:
                columns, x_name = read_metrics(file, name)
            except UserError as error:
                log.warning("no learning curve of %s: %s", row.name(run), printable(str(error)))
                break
            x, y = columns.get("val/accuracy", (np.empty(0), np.empty(0)))
            kept = (x >= 0) & (x < _LARGEST_X) & (y >= 0) & (y <= 1)
            x = x[kept]
            y = y[kept]
            if not len(x):
                continue
            if x.max() == 0:  # one value without any training: no seconds either
                curves.append((x, y))
            elif x_name == name:
                curves.append((x + 1, y) if name == "step" else (x, y))  # how many, not which
    return both


def _seeds(axes: Axes, seeds: Sequence[Points], look: dict[str, Any]) -> None:
    """Draw the curves of one row on one side."""
    if not seeds:
        return
    if all(x.max() == 0 for x, _ in seeds):
        axes.axhline(float(np.mean([y[-1] for _, y in seeds])), color=look["color"], ls=look["linestyle"], lw=2)
        return
    for x, y in seeds if len(seeds) > 1 else ():
        axes.plot(x, y, color=look["color"], ls=look["linestyle"], lw=0.8, alpha=0.5)
    x, y = mean_curve(seeds)
    axes.plot(x, y, **look | ({} if len(x) < _FEW else {"marker": ""}), lw=2, ms=4)


def mean_curve(seeds: Sequence[Points]) -> Points:
    """Average the validation curves of seeds.

    The first, second, ... validations are averaged in x and y, until a seed ends.
    """
    shortest = min(len(x) for x, _ in seeds)
    x, y = (np.mean([points[axis][:shortest] for points in seeds], axis=0) for axis in (0, 1))
    return x, y
