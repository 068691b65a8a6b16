"""Score how well known images are told from unknown images.

Every image of a task has a *knownness*. The query images, whose classes the support set has, should have a higher
knownness than the images of unknown classes. The scores are of one task, and do not change with any increasing function
of the knownness.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

KNOWNNESS = ("auto", "probability", "energy", "logit", "real")
SCORES = ("auroc", "fpr95")  # the columns of episodes.csv


@dataclass(frozen=True)
class OpenSetScores:
    """Hold means over open-set test episodes.

    The means are the entry ``test.open_set``.

    Attributes:
        knownness: the score of an image, one of ``KNOWNNESS`` but ``auto``.
        auroc: the probability that a known image has a higher knownness than an unknown image, a fraction.
        fpr95: the fraction of unknown images that is taken for known where 95% of the known images are.
        auroc_ci95, fpr95_ci95: half-widths of their 95% t-intervals.
    """

    knownness: str
    auroc: float
    auroc_ci95: float | None = None
    fpr95: float | None = None
    fpr95_ci95: float | None = None

    def __post_init__(self) -> None:
        for name in SCORES:
            value = getattr(self, name)
            if value is not None and not (0 <= value <= 1 or value != value):
                raise ValueError(f"test.open_set.{name} is {value}, not a fraction")


def auroc(known: NDArray[np.floating], unknown: NDArray[np.floating]) -> float:
    """Return the area under the ROC curve.

    The area is the share of pairs in which the known image has the higher knownness, where ties count half (Mann and
    Whitney). The arguments are ``(n,)`` and ``(m,)``; the area is nan if one of their values is nan.
    """
    if np.isnan(known).any() or np.isnan(unknown).any():
        return float("nan")
    order = np.sort(unknown)
    below = np.searchsorted(order, known, side="left") + np.searchsorted(order, known, side="right")
    return float(below.mean() / (2 * len(order)))


def fpr95(known: NDArray[np.floating], unknown: NDArray[np.floating]) -> float:
    """Return the false alarms at 95% recall.

    The threshold is the highest knownness that at least 95% of the known images reach. The false alarms are the
    fraction of unknown images that reach the threshold; nan if one of the values is nan.
    """
    if np.isnan(known).any() or np.isnan(unknown).any():
        return float("nan")
    return float(false_positive_rates(known, unknown)[recalled_at_95(len(known)) - 1])


def recalled_at_95(known: int) -> int:
    """Return the smallest number of images that is at least 95%."""
    return -(-95 * known // 100)


def false_positive_rates(known: NDArray[np.floating], unknown: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the false alarms at each recall.

    Known images ``(n,)`` give rates ``(n,)``: place k - 1 is the fraction of unknown images that reach the k-th highest
    knownness of the known images, where the recall is at least k / n.
    """
    order = np.sort(unknown)
    thresholds = np.sort(known)[::-1]
    rates: NDArray[np.float64] = 1 - np.searchsorted(order, thresholds, side="left") / len(order)
    return rates
