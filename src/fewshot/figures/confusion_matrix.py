"""Confusion matrices: rows are true classes, columns predicted ones."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from fewshot.figures.png import write_png
from fewshot.files import write_csv

_MOST_TEXTS = 30  # classes, beyond which there is no room for a text in each cell


def write_counts(counts: NDArray[np.int64], classes: Sequence[str], file: Path) -> None:
    """``counts`` ``(N, N)`` of true classes (rows) and predicted ones (columns) as CSV."""
    write_csv(file, ("true", *classes), ((name, *row) for name, row in zip(classes, counts.tolist(), strict=True)))


def draw_counts(counts: NDArray[np.int64], classes: Sequence[str], file: Path) -> None:
    """The same as a picture: shares of each true class, with the counts where there is room for them."""
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    _draw(shares, lambda row, column: f"{counts[row, column]}", classes, file)


def draw_shares(shares: NDArray[np.floating], classes: Sequence[str], file: Path, title: str) -> None:
    """Shares ``(N, N)`` in [0, 1], nan where there is none to know, with the percentages where there is room."""
    _draw(shares, lambda row, column: f"{100 * shares[row, column]:.0f}", classes, file, title)


def _draw(
    shares: NDArray[np.floating],
    text: Callable[[int, int], str],
    classes: Sequence[str],
    file: Path,
    title: str = "",
) -> None:
    size = len(classes)
    figure = Figure(figsize=(2.5 + 0.45 * size, 2 + 0.45 * size), layout="constrained")
    axes = figure.add_subplot(facecolor="#d9d9d9")
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    # Names are what people called their folders: a dollar sign in one begins no formula.
    axes.set_xticks(range(size), classes, rotation=90, parse_math=False)
    axes.set_yticks(range(size), classes, parse_math=False)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    axes.set_title(title, fontsize=9)
    if size <= _MOST_TEXTS:
        for row, column in np.argwhere(np.nan_to_num(shares) > 0):
            colour = "white" if shares[row, column] > 0.5 else "black"
            axes.text(column, row, text(row, column), ha="center", va="center", color=colour, fontsize=8)
    write_png(file, figure)
