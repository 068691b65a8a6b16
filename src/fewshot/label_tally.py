"""Count labels of a folder, right ones and wrong ones, and print the counts."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fewshot.files import printable

SHOWN = 40  # rows of the printed table, and classes whose accuracy is printed


class Tally:
    """Count the labels of images.

    Args:
        classes: of the support set.
        unknown: the label of images of no class; None if there is no such label.
        counted: some images have a true class.
    """

    def __init__(self, classes: Sequence[str], unknown: str | None, counted: bool) -> None:
        self.names = [*classes, *([unknown] if unknown else [])]
        self.classes = len(classes)
        self.number = {name: place for place, name in enumerate(self.names)}
        self.counts: NDArray[np.int64] | None = None
        if counted:
            self.counts = np.zeros((len(self.names), len(self.names)), np.int64)  # rows are true classes
        self.first: list[tuple[str, str, float]] = []
        self.total = 0

    def add(
        self, files: Sequence[str], predicted: Sequence[str], best: Sequence[float], truth: Sequence[str | None]
    ) -> None:
        """Count images by file, label, probability and true class."""
        self.total += len(files)
        rows = zip(files, predicted, best, strict=True)
        self.first += [row for row, _ in zip(rows, range(SHOWN - len(self.first)), strict=False)]
        if self.counts is not None:
            for true, label in zip(truth, predicted, strict=True):
                if true is not None:
                    self.counts[self.number[true], self.number[label]] += 1

    @property
    def accuracy(self) -> float | None:
        """Return the accuracy on images of known classes, None without such images."""
        if self.counts is None or not self.counts[: self.classes].sum():
            return None
        known = self.counts[: self.classes]
        return float(known.diagonal().sum() / known.sum())

    def print(self, console: Console) -> None:
        """Print the first labels and the accuracy.

        The accuracy needs images of known classes.
        """
        table = Table("file", "predicted", "probability")
        for file, predicted, probability in self.first:
            table.add_row(escape(printable(file)), escape(printable(predicted)), f"{probability:.3f}")
        console.print(table)
        if self.total > len(self.first):
            console.print(f"and {self.total - len(self.first)} more")
        if self.counts is None:
            return
        known = self.counts[: self.classes]
        right = known.diagonal()
        if known.sum():
            console.print(f"accuracy {right.sum() / known.sum():.4f} ({right.sum()} of {known.sum()})")
        if len(self.names) > self.classes:
            self._print_unknown(known, console)
        named = [row for row in zip(self.names, known.sum(1), right, strict=False) if row[1]]
        for name, row, hits in named[:SHOWN]:
            console.print(f"  {printable(name)}: {hits / row:.4f} ({hits} of {row})", markup=False)
        if len(named) > SHOWN:
            console.print(f"  and {len(named) - SHOWN} more classes")

    def _print_unknown(self, known: NDArray[np.int64], console: Console) -> None:
        assert self.counts is not None
        foreign = self.counts[self.classes]
        if known.sum():
            lost = known[:, self.classes].sum()
            console.print(f"called {self.names[-1]}: {lost / known.sum():.4f} of the images of known classes")
        if foreign.sum():
            console.print(
                f"  and {foreign[-1] / foreign.sum():.4f} of the images of no class ({foreign[-1]} of {foreign.sum()})"
            )
