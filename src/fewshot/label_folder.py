"""Label a folder's images with another folder's classes."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from torch import Tensor
from torchmetrics.functional.classification import multiclass_confusion_matrix

from fewshot.data.class_folders import composed, list_images, scan
from fewshot.data.image_conversion import Unreadable
from fewshot.data.image_store import File
from fewshot.data.images import decode_files
from fewshot.data.paths import utf8_name
from fewshot.errors import UserError
from fewshot.figures import confusion_matrix
from fewshot.files import printable, write_csv
from fewshot.learner import Learner, load

log = logging.getLogger(__name__)
SHOWN = 40  # rows of the printed table, and classes whose accuracy is printed
COLUMNS = ("file", "predicted", "probability")


@dataclass
class FolderLabels:
    """Hold the labels of a folder's images.

    Attributes:
        files: relative to the folder; bytes that are not UTF-8 are escapes such as ``\\xe9``.
        classes: of the support set.
        probabilities: ``(M, N)``.
        truth: the class of each file, where the folder of the file is a class.
    """

    files: list[str]
    classes: list[str]
    probabilities: Tensor
    truth: list[str | None]

    @property
    def predicted(self) -> list[str]:
        """Return the most probable class of each file."""
        return [self.classes[place] for place in self.probabilities.argmax(1).tolist()]

    @property
    def counts(self) -> NDArray[np.int64] | None:
        """Return the confusion matrix, None without truth.

        The counts are ``(N, N)``: rows are true classes, columns are predicted classes.
        """
        number = {name: place for place, name in enumerate(self.classes)}
        pairs = [
            (number[true], number[predicted])
            for true, predicted in zip(self.truth, self.predicted, strict=True)
            if true is not None
        ]
        if not pairs:
            return None
        truth, predicted = torch.tensor(pairs).T
        counts: NDArray[np.int64] = multiclass_confusion_matrix(predicted, truth, len(self.classes)).numpy()
        return counts


def classify(
    checkpoint: str | Path,
    support: Path,
    query: Path,
    output: Path | None = None,
    unlabeled: Path | None = None,
    bn: str | None = None,
    views: int = 1,
    generator: bool = True,
    invert: bool | None = None,
    trust: Sequence[str] = (),
) -> None:
    """Label a folder with a trained method.

    The method of ``checkpoint`` is fitted to ``support``. The labels of ``query``
    are printed, and written to ``output``.

    Raises:
        UserError: a file or folder is missing or unusable; see ``fewshot.load`` and ``label_folder``.
    """
    learner = load(checkpoint, bn, trust)
    if invert is not None:
        learner = replace(learner, invert=invert)
    labels = label_folder(learner, support, query, unlabeled, generator, views)
    console = Console(highlight=False)
    if output:  # before the table, which a closed pipe may end
        write_labels(labels, output)
    print_labels(labels, console)
    if learner.method.bn_protocol == "transductive":
        console.print("bn=transductive: a label depends on the other images too; bn=support makes it depend on none")
    for file in [output, *write_confusion(labels, output)] if output else []:
        console.print(f"wrote {printable(str(file))}", soft_wrap=True, markup=False)


def label_folder(
    learner: Learner,
    support: Path,
    query: Path,
    unlabeled: Path | None = None,
    generator: bool = True,
    views: int = 1,
) -> FolderLabels:
    """Label the images of ``query`` by ``support``.

    Raises:
        UserError: a folder is missing, holds nothing readable or the wrong number of classes.
    """
    classes = _scan_classes(support)
    files = list_images(_folder(query, "query"))
    names = [utf8_name(str(Path(file.path).relative_to(query))) for file in files]
    truth = _truth(names, sorted(classes), query)
    owners = [name for name, members in classes.items() for _ in members]
    x, rows = _decode(learner, [file for members in classes.values() for file in members], support, "support")
    given = [owners[row] for row in rows]
    if missing := sorted(set(classes) - set(given)):
        raise UserError(f"support={_shown(support)}: class {printable(missing[0])} has no readable image")
    extra = None
    if unlabeled:
        extra, _ = _decode(learner, list_images(_folder(unlabeled, "unlabeled")), unlabeled, "unlabeled")
    fitted = learner.fit(x, given, extra, generator, views)
    pixels, rows = _decode(learner, files, query, "query")
    return FolderLabels(
        [names[row] for row in rows],
        [str(name) for name in fitted.classes],
        fitted.probabilities(pixels),
        [truth[row] for row in rows],
    )


def _folder(path: Path, key: str) -> Path:
    if not path.is_dir():
        raise UserError(f"{key}={_shown(path)} is no folder")
    return path


def _shown(path: Path) -> str:
    return printable(str(path))


def _scan_classes(support: Path) -> dict[str, list[File]]:
    """Return the image files of each class.

    The first folders in ``support`` are the classes.
    """
    classes = scan(_folder(support, "support"), first_level=True)
    if len(classes) < 2:
        found = "one class" if classes else "no class"
        raise UserError(
            f"support={_shown(support)} holds {found}: put images of at least two into a folder each, support/<class>/*"
        )
    return classes


def _decode(learner: Learner, files: Sequence[File], folder: Path, key: str) -> tuple[Tensor, list[int]]:
    """Return the readable images and their row numbers.

    Row numbers count the ``files``. Unreadable files are logged and left out.
    """
    images = []
    rows = []
    paths = [Path(file.path) for file in files]
    for row, image in enumerate(decode_files(paths, learner.decoding)):
        if isinstance(image, Unreadable):
            log.warning("left out %s: %s", _shown(paths[row]), image)
            continue
        if image.loses_colour:  # and with the colours perhaps what tells the classes apart
            raise UserError(
                f"{_shown(paths[row])} has colours, but the network was trained on images of 1 channel: make the "
                "images grey first, or take a checkpoint of a run with data.channels=3"
            )
        images.append(image.pixels)
        rows.append(row)
    if not images:
        raise UserError(f"{key}={_shown(folder)} holds no readable image")
    return torch.from_numpy(np.stack(images)), rows


def _truth(names: list[str], classes: list[str], query: Path) -> list[str | None]:
    """Return each file's class, None if unknown.

    The class is the first folder in the name of the file.
    """
    folders = [composed(name.split("/")[0]) if "/" in name else None for name in names]
    truth = [folder if folder in classes else None for folder in folders]
    unknown = sorted({folder for folder in folders if folder is not None} - set(classes))
    if unknown and any(truth):
        log.warning(
            "query=%s: images in folders that are no class of the support set are labelled, but not counted: %s",
            _shown(query),
            printable(", ".join(unknown[:5])),
        )
    return truth


def print_labels(labels: FolderLabels, console: Console) -> None:
    """Print the first labels and the accuracy.

    The accuracy needs images of known classes.
    """
    table = Table(*COLUMNS)
    best = labels.probabilities.amax(1).tolist()
    rows = list(zip(labels.files, labels.predicted, best, strict=True))
    for file, predicted, probability in rows[:SHOWN]:
        table.add_row(escape(printable(file)), escape(printable(predicted)), f"{probability:.3f}")
    console.print(table)
    if len(rows) > SHOWN:
        console.print(f"and {len(rows) - SHOWN} more")
    counts = labels.counts
    if counts is None:
        return
    console.print(f"accuracy {counts.trace() / counts.sum():.4f} ({counts.trace()} of {counts.sum()})")
    known = [row for row in zip(labels.classes, counts.sum(1), counts.diagonal(), strict=True) if row[1]]
    for name, row, right in known[:SHOWN]:
        console.print(f"  {printable(name)}: {right / row:.4f} ({right} of {row})", markup=False)
    if len(known) > SHOWN:
        console.print(f"  and {len(known) - SHOWN} more classes")


def write_labels(labels: FolderLabels, output: Path) -> None:
    """Write labels and probabilities as CSV.

    Each image has a row: file, label, and the probabilities of the label and of all classes.
    """
    images = zip(labels.files, labels.predicted, labels.probabilities.tolist(), strict=True)
    rows = ((file, predicted, *(f"{value:.6f}" for value in (max(row), *row))) for file, predicted, row in images)
    write_csv(output, (*COLUMNS, *_columns(labels.classes)), rows)


def _columns(classes: list[str]) -> list[str]:
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


def write_confusion(labels: FolderLabels, output: Path) -> list[Path]:
    """Write and draw the confusion matrix.

    Return the files, which lie beside ``output``; none if no true class is known.
    """
    counts = labels.counts
    if counts is None:
        return []
    table = output.with_name(f"{output.stem}_confusion.csv")
    picture = output.with_name(f"{output.stem}_confusion.png")
    confusion_matrix.write_counts(counts, labels.classes, table)
    confusion_matrix.draw_counts(counts, labels.classes, picture)
    return [file for file in (table, picture) if file.exists()]
