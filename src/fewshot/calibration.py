"""Is a classifier right as often as it is sure: confidence beside accuracy, in bins (Guo et al. 2017)."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fewshot.errors import UserError

FILE = "calibration.csv"  # in a run's folder
COUNT = 15
_COLUMNS = ("low", "high", "count", "confidence", "accuracy")


@dataclass(frozen=True, eq=False)
class Bins:
    """Predictions by confidence, the probability of the predicted class, in 15 bins of equal width.

    A bin has its lower edge and not its upper one; the last has both.

    Attributes:
        count: ``(15,)`` predictions in each bin.
        confidence: ``(15,)`` their mean confidence, nan where there are none.
        accuracy: ``(15,)`` the fraction of them that is right, nan where there are none.
    """

    count: NDArray[np.int64]
    confidence: NDArray[np.float64]
    accuracy: NDArray[np.float64]

    @staticmethod
    def of(confidence: NDArray[np.floating], right: NDArray[np.bool_]) -> "Bins":
        """Of n predictions: their confidences ``(n,)`` in [0, 1] and whether they are right ``(n,)``."""
        edges = np.linspace(0, 1, COUNT + 1, dtype=confidence.dtype)
        place = np.minimum(np.searchsorted(edges, confidence, side="right") - 1, COUNT - 1)
        count = np.bincount(place, minlength=COUNT)
        sums = (np.bincount(place, weights=values.astype(float), minlength=COUNT) for values in (confidence, right))
        with np.errstate(invalid="ignore"):
            mean, accuracy = (total / count for total in sums)
        return Bins(count, mean, accuracy)

    def csv_text(self) -> str:
        """One line a bin, with its edges; nothing in the two means of an empty bin."""
        stream = io.StringIO()
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(_COLUMNS)
        for place, (count, *means) in enumerate(zip(self.count, self.confidence, self.accuracy, strict=True)):
            edges = (f"{(place + side) / COUNT:.6g}" for side in (0, 1))
            writer.writerow([*edges, count, *(repr(float(mean)) if count else "" for mean in means)])
        return stream.getvalue()


def pooled(parts: Sequence[Bins]) -> Bins:
    """The bins of all predictions of several runs."""
    count = np.sum([part.count for part in parts], axis=0)
    with np.errstate(invalid="ignore"):
        means = [
            np.nansum([part.count * getattr(part, name) for part in parts], axis=0) / count
            for name in ("confidence", "accuracy")
        ]
    return Bins(count, *means)


def read_bins(file: Path) -> Bins | None:
    """What a run left in ``calibration.csv``; None where an older run left none.

    Raises:
        UserError: the file is malformed.
    """
    if not file.is_file():
        return None
    try:
        with file.open(newline="", encoding="utf-8") as stream:
            rows = list(csv.DictReader(stream))
        bins = Bins(
            np.array([int(row["count"]) for row in rows]),
            *(np.array([float(row[name] or "nan") for row in rows]) for name in ("confidence", "accuracy")),
        )
    except (OSError, UnicodeDecodeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{file}: not the bins of a calibration ({error})") from error
    if len(rows) != COUNT or bins.count.sum() == 0:
        raise UserError(f"{file}: not {COUNT} bins of predictions")
    return bins
