"""Which classes are taken for which."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from fewshot.report.atomic import write_bytes


def write_counts(counts: NDArray[np.int64], classes: Sequence[str], file: Path) -> None:
    """``counts`` ``(N, N)`` of true classes (rows) and predicted ones (columns) as CSV."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(("true", *classes))
    writer.writerows((name, *row) for name, row in zip(classes, counts.tolist(), strict=True))
    write_bytes(file, stream.getvalue().encode())


def draw(counts: NDArray[np.int64], classes: Sequence[str], file: Path) -> None:
    """The same as a picture: shares of each true class, with the counts where there is room for them."""
    size = len(classes)
    figure = Figure(figsize=(2.5 + 0.45 * size, 2 + 0.45 * size), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(size), classes, rotation=90)
    axes.set_yticks(range(size), classes)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    if size <= 30:
        for row, column in np.argwhere(counts):
            colour = "white" if shares[row, column] > 0.5 else "black"
            axes.text(column, row, f"{counts[row, column]}", ha="center", va="center", color=colour, fontsize=8)
    content = io.BytesIO()
    figure.savefig(content, format="png")
    write_bytes(file, content.getvalue())
