"""Draw decision boundaries side by side.

The boundaries are of few-shot classifiers of points in the unit square.
"""

import io
import math
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile

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
from fewshot.files import MEGABYTE, printable, read_bytes

_CLASSES = ("#2166ac", "#d95f02", "#1b9e77", "#7570b3", "#e7298a", "#a6761d", "#e6ab02", "#666666")
_SIDE = 3.0  # inches of one square
_MOST_BYTES = 256 * MEGABYTE  # of all arrays of a file
_MOST_TASKS = 8
_MOST_WAYS = 50
_MOST_PLACES = 1000
# Sizes of the arrays by letter: T tasks, N classes, G places a side, S support, Q query and F generated points.
_SHAPES = {
    "axis": "G",
    "probabilities": "TGGN",
    "support_x": "TS2",
    "support_y": "TS",
    "query_x": "TQ2",
    "query_y": "TQ",
    "accuracy": "T",
    "real": "TGG",
    "generated": "TF2",
}
_OPTIONAL = {"real", "generated"}
_LABELS = ("support_y", "query_y")

Arrays = dict[str, NDArray[Any]]


def draw_decision_boundaries(files: Mapping[str, Path], target: Path) -> None:
    """Draw the decision boundaries in files.

    The files are of ``DecisionBoundary``: a column for each run, a row for each task.

    Raises:
        UserError: a file cannot be read, or ``target`` cannot be written.
    """
    draw_boundary_panels({name: read_boundaries(file, inside=file.parent) for name, file in files.items()}, target)


def draw_boundary_panels(runs: Mapping[str, Arrays], target: Path) -> None:
    """Draw boundaries in columns and rows.

    Columns are runs; rows are tasks, at most 8. Each place of the square has the colours of the classes in the
    proportions of their probabilities, and is whiter the less probable it is that a point there is real; without a fake
    outcome no place is white.
    """
    tasks = min(_MOST_TASKS, *(len(run["support_x"]) for run in runs.values()))
    figure = Figure(figsize=(_SIDE * len(runs), (_SIDE + 0.2) * tasks + 0.8), layout="constrained")
    grid = figure.subplots(tasks, len(runs), squeeze=False, sharex=True, sharey=True)
    for column, (name, run) in enumerate(runs.items()):
        for task in range(tasks):
            axes = grid[task, column]
            _panel(axes, {key: run[key] if key == "axis" else run[key][task] for key in run})
            title = f"task {task}: {100 * run['accuracy'][task]:.0f}% of its query points right"
            axes.set_title(title, fontsize=8, color="#444444", pad=3)
        grid[0, column].text(0.5, 1.1, name, transform=grid[0, column].transAxes, ha="center", fontsize=11)
    handles = _legend(list(runs.values()))
    figure.legend(handles=handles, loc="outside lower center", ncols=min(3, len(runs)), frameon=False, fontsize=8)
    write_png(target, figure)


def _panel(axes: Axes, run: Arrays) -> None:
    """Draw one task of one run."""
    probabilities = run["probabilities"].astype(np.float64)
    axis = run["axis"]
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


def _points(axes: Axes, points: NDArray[Any], **style: Any) -> None:
    axes.scatter(points[:, 0], points[:, 1], **style)


def _line(axes: Axes, axis: NDArray[Any], values: NDArray[Any], level: float, **style: Any) -> None:
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


def read_boundaries(file: Path, inside: Path) -> Arrays:
    """Read a ``boundary.npz`` in the folder ``inside``.

    A file holds, for T tasks of N classes and a grid of G x G places (row y, column x), points in [0, 1]:

    - ``axis (G,)``, ``probabilities (T, G, G, N)`` given that a point is real;
    - ``real (T, G, G)``, the probability that a point is real, and ``generated (T, F, 2)``: both optional;
    - ``support_x (T, S, 2)``, ``support_y (T, S)``, likewise ``query_x``, ``query_y``; ``accuracy (T,)`` on queries.

    Raises:
        UserError: the file cannot be read, or an array is missing or of another shape.
    """
    content = read_bytes(file, inside)
    try:
        with ZipFile(io.BytesIO(content)) as archive:
            _refuse_bombs(archive)
        with np.load(io.BytesIO(content), allow_pickle=False) as stored:
            run = {name: stored[name] for name in _SHAPES if name in stored}
    except (
        *(OSError, ValueError, EOFError, RuntimeError, NotImplementedError),
        *(BadZipFile, zlib.error, MemoryError, SyntaxError, TypeError),
    ) as error:
        raise UserError(f"{file}: cannot be read ({printable(str(error), 100)})") from error
    if missing := [name for name in _SHAPES if name not in run and name not in _OPTIONAL]:
        raise UserError(f"{file}: {', '.join(missing)} missing")
    if problem := _problem(run):
        raise UserError(f"{file}: {problem}")
    return run


def _refuse_bombs(archive: ZipFile) -> None:
    """Refuse arrays that are too large.

    The limits are 256 MB and the size that the file says.
    """
    members = archive.infolist()
    if sum(member.file_size for member in members) > _MOST_BYTES:
        raise ValueError(f"more than {_MOST_BYTES // MEGABYTE} MB of arrays")
    for member in members:
        with archive.open(member) as stream:
            version = np.lib.format.read_magic(stream)
            read_header = {
                (1, 0): np.lib.format.read_array_header_1_0,
                (2, 0): np.lib.format.read_array_header_2_0,
            }.get(version)
            if read_header is None:
                raise ValueError(f"array of version {version}")
            shape, _, dtype = read_header(stream)
        if dtype.kind not in "fiub" or math.prod(shape) * dtype.itemsize > member.file_size:
            raise ValueError(f"{member.filename} is no array of numbers of its size")


def _problem(run: Arrays) -> str | None:
    """Return which array does not fit, or None."""
    sizes = {"2": 2}
    for name, letters in _SHAPES.items():
        if name not in run:
            continue
        shape = run[name].shape
        if len(shape) != len(letters) or any(
            sizes.setdefault(letter, size) != size for letter, size in zip(letters, shape, strict=True)
        ):
            return f"{name} has the shape {shape}"
        if not np.isfinite(run[name]).all():
            return f"{name} has values that are not finite"
    if not (sizes["T"] and 2 <= sizes["N"] <= _MOST_WAYS and 2 <= sizes["G"] <= _MOST_PLACES):
        return f"{sizes['T']} tasks of {sizes['N']} classes on {sizes['G']} places a side"
    if any(run[name].dtype.kind not in "iu" or np.any((run[name] < 0) | (run[name] >= sizes["N"])) for name in _LABELS):
        return f"a label is not in [0, {sizes['N']})"
    if np.any(np.diff(run["axis"].astype(np.float64)) <= 0):
        return "the axis does not grow"
    fractions = [run[name] for name in ("probabilities", "accuracy", "real") if name in run]
    if any(np.any((values < -1e-3) | (values > 1 + 1e-3)) for values in fractions):
        return "a probability is not in [0, 1]"
    return None
