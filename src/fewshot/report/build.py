"""Write a report as files."""

import logging
import os
from collections.abc import Iterable
from pathlib import Path
from textwrap import fill

from fewshot.errors import UserError
from fewshot.figures.decision_boundary import Arrays, draw_boundary_panels, read_boundaries
from fewshot.files import printable, write_bytes
from fewshot.report.charts import accuracies, episode_scatter, reliability, validation_curves
from fewshot.report.formats import write
from fewshot.report.html import Figure, render_page
from fewshot.report.open_set_chart import open_set
from fewshot.report.read_runs import collect
from fewshot.report.table import Table, compare

log = logging.getLogger(__name__)

_BOUNDARIES = "Of the classifiers that runs adapted to the same tasks, a row a task."
_MOST_BOUNDARIES = 12  # runs side by side
_COMPARISONS = (
    (
        validation_curves,
        "validation.png",
        "Learning curves",
        "Accuracy on validation tasks over training steps and over training time; thin lines are seeds, a thick one is "
        "their mean, and a horizontal one is a method without training.",
    ),
    (
        episode_scatter,
        "episodes.png",
        "Episode by episode",
        "Each test episode at its accuracy with the reference and with the other setting, averaged over seeds; larger "
        "dots are several episodes. Above the diagonal the other setting is better.",
    ),
    (
        reliability,
        "calibration.png",
        "Calibration",
        "Accuracy of the query images beside the confidence in their predicted class, in 15 bins over all seeds; "
        "larger dots hold more images. Below the diagonal a method is surer than right. ECE: expected calibration "
        "error, the mean over seeds.",
    ),
    (
        open_set,
        "unknown_classes.png",
        "Unknown classes",
        "How well images of unknown classes are told from the query images, with 95% intervals over episodes. The "
        "dashed line is guessing.",
    ),
)


def report(paths: Iterable[str | Path], folder: Path | None) -> Table:
    """Compare the runs at or below ``paths``.

    With a ``folder`` also write there ``report.html``, which holds all of the following, ``report.md``, ``report.csv``,
    ``report.tex``, ``accuracies.png`` (guessing is drawn where all runs have the same number of ways), and in
    ``figures/`` the files ``validation.png``, ``episodes.png``, ``calibration.png`` and ``unknown_classes.png`` that
    have something to show. Where runs left ``figures/boundary.npz``, these come side by side into ``boundaries.png``.

    Raises:
        UserError: there are no runs, none can be read, or ``folder`` cannot be written.
    """
    runs, failures = collect(paths)
    table = compare(runs, failures)
    if folder:
        write(table, folder)
        ways = {run.ways for run in runs}
        accuracies(table, folder / "accuracies.png", chance=1 / ways.pop() if len(ways) == 1 else None)
        figures = [
            Figure(
                folder / "accuracies.png",
                "Accuracies",
                "Bars: mean over test episodes and seeds, with its 95% interval over episodes.",
            )
        ]
        if boundaries := _boundaries(table):
            draw_boundary_panels(boundaries, folder / "boundaries.png")
            figures.append(Figure(folder / "boundaries.png", "Decision boundaries", _BOUNDARIES, wide=True))
        for draw, name, title, caption in _COMPARISONS:
            file = folder / "figures" / name
            if draw(table, file):
                figures.append(Figure(file, title, caption))
            else:
                file.unlink(missing_ok=True)  # of an earlier report
        write_bytes(folder / "report.html", render_page(table, failures, figures, folder / "figures").encode())
    return table


def _boundaries(table: Table) -> dict[str, Arrays]:
    """Read saved decision boundaries by name and test accuracy."""
    boundaries: dict[str, Arrays] = {}
    left_out = 0
    for name, run in [(row.name(run), run) for row in table.rows for run in row.runs]:
        file = run.path / "figures/boundary.npz"
        if not os.path.lexists(file):
            continue
        if len(boundaries) == _MOST_BOUNDARIES:
            left_out += 1
            continue
        try:
            arrays = read_boundaries(file, inside=run.path)
        except UserError as error:
            log.warning("no decision boundary of %s: %s", name, printable(str(error)))
            continue
        boundaries[f"{fill(name, 40)}\ntest accuracy {100 * run.stated_accuracy:.1f}%"] = arrays
    if left_out:
        log.warning("the decision boundaries of %d further runs are left out", left_out)
    return boundaries
