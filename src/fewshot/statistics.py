"""Estimate intervals, and compare accuracies in pairs.

Means and intervals are over test episodes. ``scipy.stats`` is loaded by the first interval, since loading takes longer
than reading a checkpoint.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Values = Sequence[float] | NDArray[np.floating]


@dataclass(frozen=True)
class Paired:
    """Hold the mean of paired differences.

    The differences are ``a - b``.

    Attributes:
        difference: mean of the differences, in the unit of the values.
        half_width: half-width of its t-interval, same unit; nan with fewer than two pairs.
        p_value: two-sided p-value of the paired t-test; nan with fewer than two pairs.
    """

    difference: float
    half_width: float
    p_value: float


def interval(values: Values, confidence: float = 0.95) -> tuple[float, float]:
    """Return the mean of ``values`` and its t-interval.

    The interval is given by its half-width. One value has a mean and no known spread: ``(value, nan)``. No value:
    ``(nan, nan)``.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1:
        raise ValueError(f"values must be one-dimensional, got shape {array.shape}")
    if array.size == 0:
        return float("nan"), float("nan")
    if array.size == 1:
        return float(array[0]), float("nan")
    from scipy import stats

    quantile = stats.t.ppf((1 + confidence) / 2, array.size - 1)
    return float(array.mean()), float(quantile * stats.sem(array))


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct p-values for multiple tests (Holm 1979).

    A nan stays nan and does not count as a test.
    """
    array = np.asarray(p_values, dtype=np.float64)
    known = np.flatnonzero(~np.isnan(array))
    order = known[np.argsort(array[known])]
    scaled = array[order] * np.arange(len(order), 0, -1)
    array[order] = np.minimum(1, np.maximum.accumulate(scaled))
    corrected: list[float] = array.tolist()
    return corrected


def paired(a: Values, b: Values, confidence: float = 0.95) -> Paired:
    """Compare paired values by a t-test.

    The values of both lists belong to the same episodes. The same difference in every pair has no spread: half-width 0,
    and p-value 1 when that difference is 0, else 0 (the t-statistic is 0/0 or infinite there).

    Raises:
        ValueError: the two lists differ in length.
    """
    first = np.asarray(a, dtype=np.float64)
    second = np.asarray(b, dtype=np.float64)
    if first.shape != second.shape:
        raise ValueError(f"paired values must match, got shapes {first.shape} and {second.shape}")
    difference = first - second
    mean, half_width = interval(difference, confidence)
    if difference.size < 2:
        return Paired(mean, half_width, float("nan"))
    if np.ptp(difference) == 0:
        return Paired(mean, 0.0, 1.0 if mean == 0 else 0.0)
    from scipy import stats

    return Paired(mean, half_width, float(stats.ttest_rel(first, second).pvalue))
