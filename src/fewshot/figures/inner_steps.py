"""Draw query accuracy and loss over inner steps."""

from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from numpy.typing import NDArray

from fewshot.figures.png import write_png
from fewshot.files import write_csv
from fewshot.statistics import interval

Floats = NDArray[np.float64]

_LINE = "#2166ac"
_USED = "#777777"


@dataclass(frozen=True)
class Point:
    """Hold the means after ``step`` steps.

    The means are over tasks, with the half-widths of their 95% t-intervals. Each attribute is a column of the CSV.
    """

    step: int
    accuracy: float
    accuracy_ci95: float
    loss: float
    loss_ci95: float


@dataclass(frozen=True)
class Curve:
    """Hold a point for each number of steps.

    Attributes:
        points: in the order of their steps.
        tasks: the number of tasks behind each mean.
    """

    points: tuple[Point, ...]
    tasks: int

    @classmethod
    def from_tasks(cls, steps: Sequence[int], accuracy: Floats, loss: Floats) -> "Curve":
        """Average over T tasks at S step numbers.

        ``accuracy`` and ``loss`` are ``(S, T)``.
        """
        rows = zip(steps, accuracy, loss, strict=True)
        points = (Point(step, *interval(accuracies), *interval(losses)) for step, accuracies, losses in rows)
        return cls(tuple(points), accuracy.shape[1])

    def write(self, file: Path) -> None:
        write_csv(file, (field.name for field in fields(Point)), map(astuple, self.points))


def draw_inner_steps(curve: Curve, target: Path, used: int) -> None:
    """Draw accuracy and loss with 95% intervals.

    A line marks the steps of the test.
    """
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    steps, accuracy, accuracy_ci95, loss, loss_ci95 = np.array(list(map(astuple, curve.points))).T
    panels = figure.subplots(1, 2)
    curves = (("accuracy", accuracy, accuracy_ci95), ("loss", loss, loss_ci95))
    for axes, (name, mean, ci95) in zip(panels, curves, strict=True):
        half = np.nan_to_num(ci95)  # of one task no spread is known
        axes.fill_between(steps, mean - half, mean + half, color=_LINE, alpha=0.2, lw=0, label="95% interval")
        axes.plot(steps, mean, "o-", color=_LINE, ms=3.5, lw=1.5)
        axes.axvline(used, color=_USED, ls="--", lw=1, label=f"{used} step{'s' * (used > 1)}, as tested")
        axes.set(xlabel="inner steps", ylabel=f"{name} on query images")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].yaxis.set_major_formatter(PercentFormatter(1))
    panels[0].legend(frameon=False, fontsize=8)
    tasks = "the first test task" if curve.tasks == 1 else f"mean over the first {curve.tasks} test tasks"
    figure.suptitle(f"After each inner step: {tasks}", fontsize=10)
    write_png(target, figure)
