"""Compare a classifier's confidence with its accuracy.

Predictions are sorted into bins by confidence (Guo et al. 2017).
"""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fewshot.errors import UserError
from fewshot.files import MEGABYTE, csv_columns, printable, read_text

FILE = "calibration.csv"  # in a run's folder
COUNT = 15
_COLUMNS = ("low", "high", "count", "confidence", "accuracy")


@dataclass(frozen=True, eq=False)
class Bins:
    """Hold predictions in 15 bins of confidence.

    The bins have equal width. Confidence is the probability of the predicted class. A bin has its lower edge and not
    its upper one; the last bin has both.

    Attributes:
        count: ``(15,)`` predictions in each bin.
        confidence: ``(15,)`` mean confidence of the predictions; nan in an empty bin.
        accuracy: ``(15,)`` fraction of the predictions that is right; nan in an empty bin.
    """

    count: NDArray[np.int64]
    confidence: NDArray[np.float64]
    accuracy: NDArray[np.float64]

    @classmethod
    def from_predictions(cls, confidence: NDArray[np.floating], right: NDArray[np.bool_]) -> "Bins":
        """Sort predictions into bins by confidence.

        Args:
            confidence: ``(n,)`` in [0, 1].
            right: ``(n,)``, whether each prediction is right.
        """
        edges = np.linspace(0, 1, COUNT + 1, dtype=confidence.dtype)
        place = np.minimum(np.searchsorted(edges, confidence, side="right") - 1, COUNT - 1)
        count = np.bincount(place, minlength=COUNT)
        sums = (np.bincount(place, weights=values.astype(float), minlength=COUNT) for values in (confidence, right))
        with np.errstate(invalid="ignore"):
            mean, accuracy = (total / count for total in sums)
        return cls(count, mean, accuracy)

    def csv_text(self) -> str:
        """Return the bins as CSV text.

        Each bin has a line. The means of an empty bin are empty cells.
        """
        stream = io.StringIO()
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(_COLUMNS)
        for place, (count, *means) in enumerate(zip(self.count, self.confidence, self.accuracy, strict=True)):
            edges = (f"{(place + side) / COUNT:.6g}" for side in (0, 1))
            writer.writerow([*edges, count, *(repr(float(mean)) if count else "" for mean in means)])
        return stream.getvalue()


def pooled(parts: Sequence[Bins]) -> Bins:
    """Combine the bins of several runs."""
    count = np.sum([part.count for part in parts], axis=0)
    with np.errstate(invalid="ignore"):
        means = [
            np.nansum([part.count * getattr(part, name) for part in parts], axis=0) / count
            for name in ("confidence", "accuracy")
        ]
    return Bins(count, *means)


def read_bins(file: Path) -> Bins:
    """Read the ``calibration.csv`` of a run.

    Raises:
        UserError: the file is malformed.
    """
    text = read_text(file, inside=file.parent, most=MEGABYTE)
    try:
        rows = list(csv_columns(text, ("count", "confidence", "accuracy"), file))
        cells = [(int(count), float(mean or "nan"), float(share or "nan")) for _, (count, mean, share) in rows]
    except (UserError, ValueError) as error:
        reason = printable(str(error).removeprefix(f"{file}: "), 100)
        raise UserError(f"{file}: not the bins of a calibration ({reason})") from error
    if len(cells) != COUNT or not any(count for count, *_ in cells):
        raise UserError(f"{file}: not {COUNT} bins of predictions")
    for count, *means in cells:
        if not 0 <= count < 2**53 or not (count == 0 or all(0 <= mean <= 1 + 1e-6 for mean in means)):
            raise UserError(f"{file}: a bin needs a count from 0 on, and a confidence and an accuracy in [0, 1]")
    counts, confidence, accuracy = zip(*cells, strict=True)
    return Bins(np.array(counts), np.array(confidence), np.array(accuracy))
