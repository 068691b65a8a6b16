"""Which classes of a split are taken for which, over tasks of few of its classes each.

Two classes can be confused only in tasks that hold both, and how many do is chance: so a confusion is the share of
the queries of class a that were called b, among those in tasks with b.
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
    """The P ordered pairs of classes that met in a task, a class with itself among them.

    Attributes:
        true, predicted: ``(P,)`` classes.
        queries: ``(P,)`` query images of ``true`` in tasks that hold ``predicted``.
        called: ``(P,)`` how many of these were called ``predicted``.
    """

    true: Integers
    predicted: Integers
    queries: Integers
    called: Integers

    @staticmethod
    def of(classes: Integers, labels: Integers, predicted: Integers) -> "ConfusedPairs":
        """Of T tasks of N ways and M query images.

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
        sums = (np.bincount(place.ravel(), weights=of.ravel()).astype(np.int64) for of in (queries, called))
        return ConfusedPairs(pairs // count, pairs % count, *sums)

    @property
    def share(self) -> NDArray[np.float64]:
        """``(P,)``: ``called`` of ``queries``; nan where there are none."""
        with np.errstate(invalid="ignore"):
            return self.called / self.queries

    def worst(self, most: int) -> list[int]:
        """At most ``most`` classes: pair after pair those most often confused, then those least often right.

        So the two classes of a confusion stand side by side. All classes, where they are no more, keep their order.
        """
        own, wrong = self.true == self.predicted, (self.true != self.predicted) & (self.called > 0)
        seen = self.true[own]
        if len(seen) <= most:
            return seen.tolist()
        order = np.lexsort((-self.share[wrong], -self.called[wrong]))
        pairs = np.stack([self.true[wrong], self.predicted[wrong]], axis=1)[order]
        hardest = seen[np.argsort(self.share[own], kind="stable")]
        return list(dict.fromkeys([*pairs.ravel().tolist(), *hardest.tolist()]))[:most]

    def matrix(self, classes: Sequence[int]) -> NDArray[np.float64]:
        """Shares ``(n, n)`` of true (rows) and predicted ``classes`` (columns); nan where a pair never met."""
        shares = dict(zip(zip(self.true.tolist(), self.predicted.tolist(), strict=True), self.share, strict=True))
        return np.array([[shares.get((true, called), np.nan) for called in classes] for true in classes])

    def write(self, names: Sequence[str], file: Path) -> None:
        """As CSV: a row for each class with itself, and one for each confusion that happened."""
        kept = (self.true == self.predicted) | (self.called > 0)
        pairs = zip(*(x[kept] for x in (self.true, self.predicted, self.queries, self.called, self.share)), strict=True)
        rows = ((names[true], names[predicted], *counts, f"{share:.6g}") for true, predicted, *counts, share in pairs)
        write_csv(file, ("true", "predicted", "queries", "called", "share"), rows)
