"""Draw features of few-shot tasks in two dimensions."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from fewshot.figures.png import write_png
from fewshot.files import printable

_COLOURS = colormaps["tab10"].colors  # type: ignore[attr-defined]
_WRONG = "#d7191c"
_MOST_NAMES = 10  # classes of a task; beyond, their numbers have to do
_SIDE = 4.2  # inches of a panel


@dataclass(frozen=True, eq=False)
class Embedded:
    """Hold one task of N ways.

    Attributes:
        number: of the episode.
        support: ``(N*K, 2)`` points of the support images.
        support_y: ``(N*K,)`` in [0, N).
        query: ``(N*Q, 2)``.
        query_y: ``(N*Q,)``.
        right: ``(N*Q,)`` bool, which query images were predicted right.
        explained: the two dimensions' share of the variance of the features.
        classes: N names.
    """

    number: int
    support: NDArray[np.floating]
    support_y: NDArray[np.integer]
    query: NDArray[np.floating]
    query_y: NDArray[np.integer]
    right: NDArray[np.bool_]
    explained: float
    classes: Sequence[str]


def principal_components(features: NDArray[np.floating]) -> tuple[NDArray[np.float64], float]:
    """Return two principal components of features.

    Features ``(M, D)`` give points ``(M, 2)`` and their share of the variance.

    A component's largest entry is positive, so that a picture does not depend on the sign that the library chose.
    Features without any spread lie at 0; with one dimension, on a line.
    """
    centred = features.astype(np.float64) - features.mean(0, dtype=np.float64)
    left, singular, _ = np.linalg.svd(centred, full_matrices=False)
    places = np.zeros((len(features), 2))
    kept = (left * singular)[:, :2]
    largest = kept[np.abs(kept).argmax(0), range(kept.shape[1])]
    places[:, : kept.shape[1]] = kept * np.where(largest < 0, -1, 1)
    total = np.square(singular).sum()
    return places, float(np.square(singular[:2]).sum() / total) if total else 0.0


def draw_embedding(tasks: Sequence[Embedded], target: Path) -> None:
    """Draw a panel for each task.

    Dots are query images, numbers are support images, red crosses are mistakes.
    """
    across = min(2, len(tasks))
    down = ceil(len(tasks) / across)
    figure = Figure(figsize=(across * _SIDE, down * _SIDE + 0.5), layout="constrained")
    panels = figure.subplots(down, across, squeeze=False).ravel()
    for axes, task in zip(panels, tasks, strict=False):
        _panel(axes, task)
    for axes in panels[len(tasks) :]:
        axes.axis("off")
    figure.suptitle("Features of test tasks: their first two principal components", fontsize=10)
    marks = (
        ("s", 8, "#444444", "support image, with its class"),
        ("o", 5, "#444444", "query image"),
        ("x", 5, _WRONG, "predicted wrong"),
    )
    handles = [Line2D([], [], marker=mark, ms=size, ls="", color=c, label=label) for mark, size, c, label in marks]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    write_png(target, figure)


def _panel(axes: Axes, task: Embedded) -> None:
    for label, name in enumerate(task.classes):
        colour = _COLOURS[label % len(_COLOURS)]
        x, y = task.query[task.query_y == label].T
        axes.scatter(x, y, s=16, color=colour, alpha=0.75, lw=0, label=f"{label} {printable(name, 40)}")
        for place in task.support[task.support_y == label]:
            box = {"boxstyle": "square,pad=0.25", "facecolor": colour, "edgecolor": "black", "linewidth": 1}
            axes.text(
                place[0], place[1], str(label), bbox=box, ha="center", va="center", fontsize=7, color="white", zorder=4
            )
    x, y = task.query[~task.right].T
    axes.scatter(x, y, marker="x", s=22, color=_WRONG, lw=1, zorder=3)
    # A text does not widen the axes by itself.
    axes.update_datalim(task.support)
    axes.autoscale_view()
    axes.margins(0.08)
    right = 100 * task.right.mean()
    explained = 100 * task.explained
    axes.set_title(f"episode {task.number}: {right:.0f}% right; {explained:.0f}% of the variance shown", fontsize=8.5)
    axes.set(xticks=[], yticks=[])
    axes.set_aspect("equal", adjustable="datalim")
    if len(task.classes) <= _MOST_NAMES:
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, 0), ncols=2, frameon=False, fontsize=6.5, handletextpad=0)
