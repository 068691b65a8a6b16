"""Write the labels of images as CSV, while more images are labelled."""

import csv
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import IO

from fewshot.errors import UserError
from fewshot.files import csv_safe, printable

COLUMNS = ("file", "predicted", "probability", "knownness")


class LabelsFile:
    """Write a row for each image.

    A row has the file, its label, the largest probability, the knownness, and the probabilities of all classes. Rows
    are in the file at once.

    Args:
        path: of the file, which is begun anew.
        classes: of the probabilities.

    Raises:
        UserError: the file cannot be written.
    """

    def __init__(self, path: Path, classes: Sequence[str]) -> None:
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self.stream: IO[str] = path.open("w", encoding="utf-8", newline="")
        except OSError as error:
            raise self._refused(error) from error
        self.writer = csv.writer(self.stream, lineterminator="\n")
        self._write([(*COLUMNS, *column_names(classes))])

    def __enter__(self) -> "LabelsFile":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stream.close()

    def add(
        self,
        files: Sequence[str],
        predicted: Sequence[str],
        probabilities: Sequence[Sequence[float]],
        knownness: Sequence[float],
    ) -> None:
        """Write the rows of some images."""
        self._write(
            [
                (file, label, f"{max(row):.6f}", f"{known:.6g}", *(f"{value:.6f}" for value in row))
                for file, label, row, known in zip(files, predicted, probabilities, knownness, strict=True)
            ]
        )

    def _write(self, rows: Sequence[Sequence[object]]) -> None:
        try:
            self.writer.writerows([csv_safe(cell) for cell in row] for row in rows)
            self.stream.flush()
        except OSError as error:
            raise self._refused(error) from error

    def _refused(self, error: OSError) -> UserError:
        return UserError(f"{printable(str(self.path))}: cannot be written ({error.strerror})")


def column_names(classes: Sequence[str]) -> list[str]:
    """Return a unique column name for each class."""
    taken = {*COLUMNS, *classes}
    names = []
    for name in classes:
        column = name
        while column in COLUMNS or (column != name and column in taken):
            column = f"class {column}"
        taken.add(column)
        names.append(column)
    return names
