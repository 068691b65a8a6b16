"""Decision boundaries of few-shot classifiers of points in the unit square, side by side."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from numpy.typing import NDArray

from fewshot.errors import UserError
from fewshot.figures.png import write_png

_CLASSES = ("#2166ac", "#d95f02", "#1b9e77", "#7570b3", "#e7298a", "#a6761d", "#e6ab02", "#666666")
_SIDE = 3.0  # inches of one square
_NEEDED = ("axis", "probabilities", "support_x", "support_y", "query_x", "query_y", "accuracy")

Arrays = dict[str, NDArray]


def draw_decision_boundaries(files: Mapping[str, Path], target: Path) -> None:
    """Draw what ``DecisionBoundary`` saved: a column a run, under its name, and a row a task.

    Each place of the square has the colours of the classes in the proportions of their probabilities, and is
    white as far as it is held for fake; so without a fake outcome no place is white, however far from all points.
    A file holds, for T tasks of N classes and a grid of G x G places (row y, column x), points in [0, 1]:

    - ``axis (G,)``, ``probabilities (T, G, G, N)`` given that a point is real;
    - ``real (T, G, G)``, the probability that it is, and ``generated (T, F, 2)``, where there are such;
    - ``support_x (T, S, 2)``, ``support_y (T, S)``, likewise ``query_x``, ``query_y``; ``accuracy (T,)`` on queries.

    Raises:
        UserError: a file cannot be read, or ``target`` cannot be written.
    """
    runs = {name: _read(file) for name, file in files.items()}
    tasks = min(len(run["support_x"]) for run in runs.values())
    figure = Figure(figsize=(_SIDE * len(runs), (_SIDE + 0.2) * tasks + 0.8), layout="constrained")
    grid = figure.subplots(tasks, len(runs), squeeze=False, sharex=True, sharey=True)
    for column, (name, run) in enumerate(runs.items()):
        for task in range(tasks):
            axes = grid[task, column]
            _panel(axes, {key: run[key] if key == "axis" else run[key][task] for key in run})
            told = f"task {task}: {100 * run['accuracy'][task]:.0f}% of its query points right"
            axes.set_title(told, fontsize=8, color="#444444", pad=3)
        grid[0, column].text(0.5, 1.1, name, transform=grid[0, column].transAxes, ha="center", fontsize=11)
    handles = _legend(list(runs.values()))
    figure.legend(handles=handles, loc="outside lower center", ncols=min(3, len(runs)), frameon=False, fontsize=8)
    write_png(target, figure)


def _panel(axes: Axes, run: Arrays) -> None:
    """One task of one run."""
    probabilities, axis = run["probabilities"].astype(np.float64), run["axis"]
    real = run.get("real", np.ones(probabilities.shape[:2]))[..., None]
    ways = probabilities.shape[-1]
    colours = np.array([to_rgb(_CLASSES[way % len(_CLASSES)]) for way in range(ways)])
    # Guessing is paler than certainty: the mixture of all colours would be a dark grey.
    certain = (probabilities.max(-1, keepdims=True) - 1 / ways) / (1 - 1 / ways)
    strength = real * (0.12 + 0.5 * certain)
    axes.imshow(1 - strength * (1 - probabilities @ colours), extent=(0, 1, 0, 1), origin="lower", aspect="equal")
    for way in range(ways):
        margin = probabilities[..., way] - np.delete(probabilities, way, axis=-1).max(-1)
        _line(axes, axis, margin, 0.0, colors="#555555", linewidths=0.8)
    if "real" in run:
        _line(axes, axis, run["real"], 0.5, colors="black", linewidths=1.6, linestyles="dashed")
    _points(axes, run["query_x"], s=5, c=colours[run["query_y"]], linewidths=0)
    if "generated" in run:
        _points(axes, run["generated"], s=34, c="black", marker="x", linewidths=1.3)
    _points(axes, run["support_x"], s=46, c=colours[run["support_y"]], edgecolors="white", linewidths=1.2)
    axes.set(xlim=(0, 1), ylim=(0, 1), xticks=[], yticks=[])


def _points(axes: Axes, points: NDArray, **style: Any) -> None:
    axes.scatter(points[:, 0], points[:, 1], **style)


def _line(axes: Axes, axis: NDArray, values: NDArray, level: float, **style: Any) -> None:
    if values.min() < level < values.max():  # else there is no such line, and matplotlib warns
        axes.contour(axis, axis, values, levels=[level], **style)


def _legend(runs: list[Arrays]) -> list[Artist]:
    fakes = any("real" in run for run in runs)
    handles: list[Artist] = [
        Line2D([], [], ls="", marker="o", ms=7, color=_CLASSES[0], mec="white", label="support point, by class"),
        Line2D([], [], ls="", marker="o", ms=3, color=_CLASSES[0], mec="none", label="query point, to be classified"),
        Patch(fc=_CLASSES[0], alpha=0.6, label=f"likeliest class, pale where unsure{' or held for fake' * fakes}"),
        Line2D([], [], color="#555555", lw=0.8, label="border between classes"),
    ]
    if any("generated" in run for run in runs):
        handles.append(Line2D([], [], ls="", marker="x", ms=6, color="black", mew=1.3, label="generated point"))
    if fakes:
        handles.append(Line2D([], [], color="black", lw=1.6, ls="--", label="p(real) = 1/2"))
    return handles


def _read(file: Path) -> Arrays:
    try:
        with np.load(file, allow_pickle=False) as stored:
            run = dict(stored)
    except (OSError, ValueError, EOFError, BadZipFile) as error:
        raise UserError(f"{file}: cannot be read ({error})") from error
    if missing := [name for name in _NEEDED if name not in run]:
        raise UserError(f"{file}: {', '.join(missing)} missing")
    return run
