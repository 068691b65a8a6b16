"""Draw images in rows and columns.

The images are of episodes, or generated.

Images are ``(H, W)`` or ``(H, W, 1)`` grey, where 1 is ink and is drawn dark on white, or
``(H, W, 3)`` colour; values in [0, 1].
"""

from collections.abc import Mapping, Sequence
from math import ceil
from pathlib import Path
from textwrap import fill

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from fewshot.figures.png import write_png

Images = NDArray[np.floating]
Labels = NDArray[np.integer]

_CELL = 0.5  # inches a side of one image with its margin
_MARGIN = 0.12  # of a cell, on each side of an image
_GAP = 0.5  # of a cell, between support and query and between tasks
_PREDICTION = 0.28  # of a cell, for the prediction below a query image
_FRAME = "#cccccc"
_RIGHT = "#1a9641"
_WRONG = "#d7191c"
_MAX_SUPPORT = 5  # images a class that are shown
_MAX_QUERY = 4
_MAX_WAYS = 30  # classes a task that are shown
_MAX_ROWS = 60  # of images
_MAX_COLUMNS = 60
_MAX_WIDTH = 11.0  # inches of episodes side by side


def task_sheet(
    support: Images,
    support_y: Labels,
    query: Images,
    query_y: Labels,
    probabilities: NDArray[np.floating],
    target: Path,
    numbers: Sequence[int] | None = None,
) -> None:
    """Draw the images of test episodes.

    Each of T episodes has a column for each class, support images above query images.

    Below a query image stand the number of the predicted class and its probability, in green where the
    prediction is right, in red where the prediction is wrong. The title's accuracy is over all query images, of
    which at most four a class are shown (and five support images), of at most 30 classes.

    Args:
        support: ``(T, N*K, H, W[, 3])``.
        support_y: ``(T, N*K)`` in [0, N).
        query: ``(T, N*Q, H, W[, 3])``.
        query_y: ``(T, N*Q)``.
        probabilities: ``(T, N*Q, N)``.
        target: the PNG file to write.
        numbers: of the episodes; None counts from 0.
    """
    episodes = len(support)
    all_ways = int(support_y.max()) + 1
    ways = min(all_ways, _MAX_WAYS)
    top = min(_MAX_SUPPORT, max(np.bincount(labels).max() for labels in support_y))
    every = max(np.bincount(labels).max() for labels in query_y)
    queries = min(_MAX_QUERY, every)
    rows = top + _GAP + queries * (1 + _PREDICTION)
    down = ceil(episodes / max(1, int(_MAX_WIDTH / (_CELL * (ways + 1)))))
    figure, blocks = _blocks(down, ceil(episodes / down), ways, rows)
    for episode, axes in enumerate(blocks[:episodes]):
        predicted = probabilities[episode].argmax(-1)
        right = predicted == query_y[episode]
        number = episode if numbers is None else numbers[episode]
        axes.set_title(f"episode {number}: {100 * right.mean():.0f}%", fontsize=9, pad=12)
        for column in range(ways):
            axes.text(column + 0.5, -0.05, str(column), ha="center", va="bottom", fontsize=7, color="#666666")
            for row, index in enumerate(np.flatnonzero(support_y[episode] == column)[:_MAX_SUPPORT]):
                _draw_image(axes, support[episode, index], column, row, _FRAME)
            for row, index in enumerate(np.flatnonzero(query_y[episode] == column)[:_MAX_QUERY]):
                place = top + _GAP + row * (1 + _PREDICTION)
                colour = _RIGHT if right[index] else _WRONG
                _draw_image(axes, query[episode, index], column, place, colour)
                prediction = f"{predicted[index]}  {100 * probabilities[episode, index].max():.0f}%"
                axes.text(column + 0.5, place + 0.96, prediction, ha="center", va="top", fontsize=6.5, color=colour)
        axes.axhline(top + _GAP / 2, color=_FRAME, lw=0.8)
        _row_name(axes, "support", top / 2, rotation=90)
        _row_name(axes, "query", (top + _GAP + rows) / 2, rotation=90)
    legend = "below a query: predicted class and its probability"
    if every > queries:
        legend += f"; {queries} of {every} queries a class are shown"
    if all_ways > ways:
        legend += f"; {ways} of {all_ways} classes are shown"
    legend = fill(legend, int(20 * figure.get_figwidth()))
    figure.text(0.5, 0, legend, ha="center", va="top", fontsize=7, color="#666666")
    write_png(target, figure)


def image_rows(rows: Mapping[str, Images] | Sequence[Mapping[str, Images]], target: Path) -> None:
    """Draw named rows of images.

    An example is ``{"real": real, "generated": fake}``. Each value is ``(n, H, W[, 3])``. A list draws the rows of one
    task below the rows of another. At most 60 rows of 60 images are drawn.
    """
    tasks = [rows] if isinstance(rows, Mapping) else list(rows)
    tasks = tasks[: max(1, _MAX_ROWS // max(map(len, tasks)))]
    tasks = [{name: task[name][:_MAX_COLUMNS] for name in list(task)[:_MAX_ROWS]} for task in tasks]
    columns = max(len(images) for task in tasks for images in task.values())
    height = sum(map(len, tasks)) + _GAP * (len(tasks) - 1)
    figure, (axes,) = _blocks(1, 1, columns, height)
    place = 0.0
    for number, task in enumerate(tasks):
        for name, images in task.items():
            _row_name(axes, name if len(tasks) == 1 else f"task {number}: {name}", place + 0.5, rotation=0)
            for column, image in enumerate(images):
                _draw_image(axes, image, column, place, _FRAME)
            place += 1
        place += _GAP
    write_png(target, figure)


def _blocks(down: int, across: int, columns: int, rows: float) -> tuple[Figure, list[Axes]]:
    """Make axes whose unit is one cell.

    Titles and names have room.
    """
    left = 0.35  # inches
    above = 0.5
    width = columns * _CELL
    height = rows * _CELL
    full_width = across * (left + width)
    full_height = down * (above + height)
    figure = Figure(figsize=(full_width, full_height))
    blocks = []
    for place in range(down * across):
        x = (place % across) * (left + width) + left
        bottom = full_height - (place // across + 1) * (above + height)
        axes = figure.add_axes((x / full_width, bottom / full_height, width / full_width, height / full_height))
        axes.set(xlim=(0, columns), ylim=(rows, 0))
        axes.set_autoscale_on(False)
        axes.axis("off")
        blocks.append(axes)
    return figure, blocks


def _draw_image(axes: Axes, image: Images, column: int, row: float, frame: str) -> None:
    """Draw one image as large as its cell allows."""
    image = np.asarray(image, dtype=np.float64).clip(0, 1)
    if image.ndim == 2 or image.shape[-1] == 1:
        image = np.repeat(1 - image.reshape(*image.shape[:2], 1), 3, axis=-1)
    sides = np.array(image.shape[:2]) / max(image.shape[:2]) * (1 - 2 * _MARGIN)
    y, x = np.array([row, column]) + (1 - sides) / 2
    axes.imshow(image, extent=(x, x + sides[1], y + sides[0], y), aspect="auto")
    width = 0.6 if frame == _FRAME else 1.8
    axes.add_patch(Rectangle((x, y), sides[1], sides[0], fill=False, ec=frame, lw=width))


def _row_name(axes: Axes, name: str, middle: float, rotation: int) -> None:
    axes.text(-0.1, middle, name, ha="right", va="center", rotation=rotation, fontsize=8, color="#444444")
