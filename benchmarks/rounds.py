"""Measure and compare two contenders in alternating rounds.

The ratio is estimated with an interval.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from statistics import median

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from benchmarks.contender import Contender

Result = Mapping[str, NDArray[np.floating]]


class Unequal(Exception):
    """Report that two contenders compute different results."""


@dataclass
class Row:
    """Hold a row of ``results.csv``.

    Attributes:
        benchmark, case, unit: names of the measured quantity.
        ours, peer: a value for each round, or a single value; empty without a measurement.
        more_is_better: true for rates; false for times and memory.
        fixed_ratio: the ratio of a row that sums up others.
    """

    benchmark: str
    case: str
    unit: str
    ours: list[float] = field(default_factory=list)
    peer: list[float] = field(default_factory=list)
    more_is_better: bool = False
    fixed_ratio: float | None = None

    @property
    def ratios(self) -> list[float]:
        """Return the ratio of each round.

        Above 1 ours is better.
        """
        if not (self.ours and self.peer):
            return []
        pairs = zip(self.ours, self.peer, strict=True)
        return [ours / peer if self.more_is_better else peer / ours for ours, peer in pairs]

    @property
    def ratio(self) -> float | None:
        """Return the median ratio, None without a peer."""
        return median(self.ratios) if self.ratios else self.fixed_ratio

    @property
    def bounds(self) -> tuple[float, float] | None:
        """Return the ratio's 95% interval, None without two rounds."""
        return interval(self.ratios) if len(self.ratios) > 1 else None


def interval(ratios: list[float]) -> tuple[float, float]:
    """Return the 95% interval of per-round ratios.

    The t-interval is of the mean logarithm of the ratios, given as ratios.
    """
    logs = np.log(ratios)
    half = stats.t.ppf(0.975, len(logs) - 1) * logs.std(ddof=1) / np.sqrt(len(logs))
    return float(np.exp(logs.mean() - half)), float(np.exp(logs.mean() + half))


def geometric_mean(ratios: list[float]) -> float:
    return float(np.exp(np.mean(np.log(ratios))))


def refuse_unequal(ours: Result, peer: Result, tolerance: float, what: str) -> None:
    """Compare two results before timing.

    Each entry is compared by its norm.

    Raises:
        Unequal: an entry is missing, of another shape, or further apart than ``tolerance`` of its norm.
    """
    if ours.keys() != peer.keys():
        raise Unequal(f"{what}: one side has {sorted(ours)}, the other {sorted(peer)}")
    for name in ours:
        a = np.asarray(ours[name])
        b = np.asarray(peer[name])
        if a.shape != b.shape:
            raise Unequal(f"{what}: {name} has shape {a.shape} on one side, {b.shape} on the other")
        apart = float(np.linalg.norm(a - b) / max(float(np.linalg.norm(b)), 1e-300)) if (a != b).any() else 0.0
        if not apart <= tolerance:  # a not-a-number too
            raise Unequal(f"{what}: {name} is {apart:.1e} apart (relative), more than {tolerance:.0e}")


def alternate(
    ours: Contender,
    peer: Contender,
    least: int = 5,
    most: int = 15,
    enough_seconds: float = 10.0,
    measure: Callable[[Contender], float] = Contender.seconds,
) -> tuple[list[float], list[float]]:
    """Measure two warm contenders in alternation.

    One is idle while the other works. At least ``least`` rounds, then until ``most`` or until the rounds have taken
    ``enough_seconds``.
    """
    values: tuple[list[float], list[float]] = ([], [])
    start = time.perf_counter()
    while len(values[0]) < least or (len(values[0]) < most and time.perf_counter() - start < enough_seconds):
        for contender, measured in zip((ours, peer), values, strict=True):
            measured.append(measure(contender))
    return values
