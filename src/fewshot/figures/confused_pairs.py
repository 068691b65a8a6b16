"""Count confusions between classes over tasks.

The classes are of a split, and each task has few. Two classes can be confused only in tasks that hold both, and the
number of these tasks is chance: so a confusion is the share of the queries of class a that were called b, among the
queries in tasks with b.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fewshot.files import write_csv

Integers = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class ConfusedPairs:
    """Hold the class pairs that met in tasks.

    The P pairs are ordered. A class with itself is a pair too.

    Attributes:
        true, predicted: ``(P,)`` classes.
        queries: ``(P,)`` query images of ``true`` in tasks that hold ``predicted``.
        called: ``(P,)`` number of these queries that were called ``predicted``.
    """

    true: Integers
    predicted: Integers
    queries: Integers
    called: Integers

    @classmethod
    def from_tasks(cls, classes: Integers, labels: Integers, predicted: Integers) -> "ConfusedPairs":
        """Count the pairs of tasks.

        T tasks have N ways and M query images.

        Args:
            classes: ``(T, N)``, which class has each label.
            labels, predicted: ``(T, M)`` in [0, N).
        """
        tasks, ways = classes.shape
        places = (np.arange(tasks)[:, None] * ways + labels) * ways + predicted
        called = np.bincount(places.ravel(), minlength=tasks * ways**2).reshape(tasks, ways, ways)
        queries = np.broadcast_to(called.sum(2, keepdims=True), called.shape)
        count = int(classes.max()) + 1
        pairs, place = np.unique(classes[:, :, None] * count + classes[:, None, :], return_inverse=True)
        sums = (np.bincount(place.ravel(), weights=counts.ravel()).astype(np.int64) for counts in (queries, called))
        return cls(pairs // count, pairs % count, *sums)

    @property
    def share(self) -> NDArray[np.float64]:
        """Return ``called`` / ``queries`` ``(P,)``; nan without queries."""
        with np.errstate(invalid="ignore"):
            return self.called / self.queries

    def worst(self, most: int) -> list[int]:
        """Return the ``most`` hardest classes.

        Confused pairs come first, then the classes least often right. So the two classes of a confusion stand side by
        side. Classes that are no more than ``most`` keep their order.
        """
        own = self.true == self.predicted
        wrong = ~own & (self.called > 0)
        classes: list[int] = self.true[own].tolist()
        if len(classes) <= most:
            return classes
        order = np.lexsort((-self.share[wrong], -self.called[wrong]))
        pairs = np.stack([self.true[wrong], self.predicted[wrong]], axis=1)[order]
        hardest = self.true[own][np.argsort(self.share[own], kind="stable")]
        return list(dict.fromkeys([*pairs.ravel().tolist(), *hardest.tolist()]))[:most]

    def matrix(self, classes: Sequence[int]) -> NDArray[np.float64]:
        """Return the shares of confusions.

        The shares are ``(n, n)``, true classes in rows; nan where a pair never met.
        """
        shares = dict(zip(zip(self.true.tolist(), self.predicted.tolist(), strict=True), self.share, strict=True))
        return np.array([[shares.get((true, called), np.nan) for called in classes] for true in classes])

    def write(self, names: Sequence[str], file: Path) -> None:
        """Write class pairs as CSV rows.

        There is a row for each class with itself and for each confusion.
        """
        kept = (self.true == self.predicted) | (self.called > 0)
        pairs = zip(*(x[kept] for x in (self.true, self.predicted, self.queries, self.called, self.share)), strict=True)
        rows = ((names[true], names[predicted], *counts, f"{share:.6g}") for true, predicted, *counts, share in pairs)
        write_csv(file, ("true", "predicted", "queries", "called", "share"), rows)
