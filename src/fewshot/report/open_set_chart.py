"""Draw how well the rows of a table tell unknown images."""

import math
from pathlib import Path
from textwrap import fill

from matplotlib.figure import Figure

from fewshot.figures.png import write_png
from fewshot.report.table import Table

_MOST_ROWS = 100
_WIDE = 72  # characters of a label on one line


def open_set(table: Table, target: Path) -> bool:
    """Draw AUROC and FPR95 of each row, with intervals.

    Returns:
        whether a row has such scores.
    """
    everything = [row for row in table.rows if row.open_set]
    if not everything:
        return False
    rows = everything[:_MOST_ROWS]
    labels = [fill(row.label, _WIDE) for row in rows]
    names = 0.065 * max(len(line) for label in labels for line in label.split("\n"))  # inches
    lines = max(label.count("\n") for label in labels)  # beyond the first
    figure = Figure(figsize=(7 + names, 1.0 + (0.32 + 0.13 * lines) * len(rows)), layout="constrained")
    if len(rows) < len(everything):
        figure.suptitle(f"the first {len(rows)} of {len(everything)} rows", fontsize=9)
    panels = figure.subplots(1, 2, sharey=True)
    texts = ("AUROC (%), higher is better", "false alarms at 95% recall (%), lower is better")
    for axes, name, text in zip(panels, ("auroc", "fpr95"), texts, strict=True):
        for place, row in enumerate(rows):
            measure = row.open_set[name]
            if math.isnan(measure.mean):
                continue
            error = 0.0 if math.isnan(measure.half_width) else 100 * measure.half_width
            mean = 100 * measure.mean
            axes.errorbar(mean, place, xerr=error, fmt="o", ms=5, color="#222222", capsize=2.5, lw=1.2)
            axes.text(mean, place - 0.2, f"{mean:.1f}", ha="center", va="bottom", fontsize=7, color="#444444")
        if name == "auroc":
            axes.axvline(50, color="#777777", ls="--", lw=1)  # guessing
            low = min(100 * row.open_set[name].mean for row in rows)
            axes.set_xlim(min(48, math.floor(low) - 4), 101) if not math.isnan(low) else None
        else:
            axes.set_xlim(-1, 101)
        axes.set_xlabel(text, fontsize=9)
        axes.grid(axis="x", alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_yticks(range(len(rows)), labels, fontsize=8)
    panels[0].set_ylim(len(rows) - 0.5, -0.6)
    panels[1].tick_params(axis="y", length=0)
    write_png(target, figure)
    return True
