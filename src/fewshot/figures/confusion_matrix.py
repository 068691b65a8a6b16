"""Write and draw confusion matrices.

Rows are true classes, columns predicted classes.
"""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from fewshot.figures.png import write_png
from fewshot.files import printable, write_csv

log = logging.getLogger(__name__)

_MOST_TEXTS = 30  # classes, beyond which there is no room for a text in each cell
_MOST_NAMES = 60  # classes, beyond which names would need a picture of hundreds of megapixels
_MOST_CLASSES = 2000  # beyond which a cell is smaller than a pixel
_CELL = 0.45  # inches a side
_UNNAMED_SIDE = 14.0  # inches of a matrix without names
_LONGEST_NAME = 40  # characters


def write_counts(counts: NDArray[np.int64], classes: Sequence[str], file: Path) -> None:
    """Write confusion counts as CSV.

    Counts ``(N, N)`` have true classes as rows and predicted classes as columns.
    """
    rows = ((name, *row.tolist()) for name, row in zip(classes, counts, strict=True))
    write_csv(file, ("true", *classes), rows)


def draw_counts(counts: NDArray[np.int64], classes: Sequence[str], file: Path) -> None:
    """Draw the shares of each true class.

    Counts are added where there is room. More than 60 classes are drawn without names; of more than 2,000 classes a
    line says that nothing is drawn.
    """
    if len(classes) > _MOST_CLASSES:
        file.unlink(missing_ok=True)  # of an earlier run
        log.warning("%s: not drawn, since %d classes have no room in a picture", file, len(classes))
        return
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    _draw_matrix(shares, lambda row, column: f"{counts[row, column]}", classes, file)


def draw_shares(shares: NDArray[np.floating], classes: Sequence[str], file: Path, title: str) -> None:
    """Draw shares as a matrix.

    The shares ``(N, N)`` are in [0, 1]; an unknown share is nan.
    """
    _draw_matrix(shares, lambda row, column: f"{100 * shares[row, column]:.0f}", classes, file, title)


def _draw_matrix(
    shares: NDArray[np.floating],
    text: Callable[[int, int], str],
    classes: Sequence[str],
    file: Path,
    title: str = "",
) -> None:
    size = len(classes)
    named = size <= _MOST_NAMES
    side = _CELL * size if named else _UNNAMED_SIDE
    figure = Figure(figsize=(2.5 + side, 2 + side), layout="constrained")
    axes = figure.add_subplot(facecolor="#d9d9d9")
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    if named:
        names = [printable(name, _LONGEST_NAME) for name in classes]
        axes.set_xticks(range(size), names, rotation=90)
        axes.set_yticks(range(size), names)
    axes.set_xlabel("predicted" if named else f"predicted: number of the class, of {size}")
    axes.set_ylabel("true")
    axes.set_title(title, fontsize=9)
    if size <= _MOST_TEXTS:
        for row, column in np.argwhere(np.nan_to_num(shares) > 0):
            colour = "white" if shares[row, column] > 0.5 else "black"
            axes.text(column, row, text(row, column), ha="center", va="center", color=colour, fontsize=8)
    write_png(file, figure)
