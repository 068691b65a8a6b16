"""Draw how well known images are told from unknown images."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from numpy.typing import NDArray

from fewshot.figures.png import write_png
from fewshot.open_set import OpenSetScores, false_positive_rates, recalled_at_95

_KNOWN = "#2166ac"
_UNKNOWN = "#d95f02"
_BINS = 60
_TAIL = 0.5  # percent of the images on each side that the histogram leaves to its first and last bin
_NAMES = {
    "probability": "log-odds of the largest probability",
    "energy": "logsumexp of the logits",
    "logit": "largest logit",
    "real": "log-odds that an image is real",
}


def draw_open_set(
    known: NDArray[np.floating], unknown: NDArray[np.floating], scores: OpenSetScores, target: Path
) -> bool:
    """Draw a histogram of the knownness, and the mean ROC curve.

    The knownness is ``(T, n)`` of known and ``(T, m)`` of unknown images, of T tasks. The curve is averaged over tasks
    at each recall, so that the curve passes through the mean false alarms at 95% recall.

    Returns:
        whether something was drawn: not if a value is not finite.
    """
    if not (np.isfinite(known).all() and np.isfinite(unknown).all()):
        target.unlink(missing_ok=True)  # of an earlier run
        return False
    figure = Figure(figsize=(9, 3.8), layout="constrained")
    histogram, roc = figure.subplots(1, 2)
    low, high = np.percentile(np.concatenate([known.ravel(), unknown.ravel()]), [_TAIL, 100 - _TAIL])
    edges = np.linspace(low, high if high > low else low + 1, _BINS + 1)
    for values, name, colour in ((known, "query images", _KNOWN), (unknown, "images of unknown classes", _UNKNOWN)):
        weights = np.full(values.size, 1 / values.size)
        histogram.hist(
            np.clip(values.ravel(), edges[0], edges[-1]), edges, weights=weights, color=colour, alpha=0.55, label=name
        )
    histogram.set(xlabel=f"knownness: {_NAMES[scores.knownness]}", ylabel="share of the images")
    histogram.set_title(f"all {len(known):,} test tasks together", fontsize=10)
    histogram.yaxis.set_major_formatter(PercentFormatter(1))
    histogram.legend(frameon=False, fontsize=8)

    rates = np.array([false_positive_rates(*task) for task in zip(known, unknown, strict=True)])
    recall = np.arange(rates.shape[1] + 1) / rates.shape[1]
    rates = np.pad(rates, ((0, 0), (1, 0)))  # nothing is accepted at a recall of 0
    roc.plot([0, 1], [0, 1], color="#888888", lw=0.8)
    roc.fill_betweenx(recall, *np.percentile(rates, [10, 90], axis=0), color=_KNOWN, alpha=0.15, linewidth=0)
    roc.plot([*rates.mean(0), 1], [*recall, 1], color=_KNOWN, lw=1.8)
    roc.axhline(0.95, color="#777777", ls="--", lw=0.8)
    roc.plot(
        [scores.fpr95], [recalled_at_95(known.shape[1]) / known.shape[1]], "o", color=_UNKNOWN, ms=5, clip_on=False
    )
    roc.text(0.98, 0.04, _summary(scores), ha="right", va="bottom", fontsize=8, transform=roc.transAxes)
    roc.set(xlim=(0, 1), ylim=(0, 1.01), xlabel="unknown images taken for known", ylabel="known images taken for known")
    roc.set_title("mean over tasks; shaded: 80% of the tasks", fontsize=10)
    for axis in (roc.xaxis, roc.yaxis):
        axis.set_major_formatter(PercentFormatter(1))
    roc.set_box_aspect(1)
    for axes in (histogram, roc):
        axes.spines[["top", "right"]].set_visible(False)
    write_png(target, figure)
    return True


def _summary(scores: OpenSetScores) -> str:
    lines = []
    for name, mean, half_width in (
        ("area (AUROC)", scores.auroc, scores.auroc_ci95),
        ("false alarms at 95% recall", scores.fpr95, scores.fpr95_ci95),
    ):
        spread = "" if half_width is None or np.isnan(half_width) else f" ± {100 * half_width:.1f}"
        lines.append(f"{name}: {100 * (mean or 0):.1f}{spread}%")
    return "\n".join(lines)
