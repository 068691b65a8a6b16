"""Label your own images: ``python -m fewshot.classify checkpoint=PATH support=DIR query=DIR [output=FILE.csv]``."""

from fewshot.startup import prepare_process

prepare_process()  # before torch loads

import logging
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from torch import Tensor
from torchmetrics.functional.classification import multiclass_confusion_matrix

from fewshot.command.exit_status import quiet_libraries
from fewshot.data.class_folders import list_images, scan
from fewshot.data.image_store import File
from fewshot.data.images import decode_all
from fewshot.errors import UserError
from fewshot.figures import confusion_matrix
from fewshot.files import write_csv
from fewshot.learner import Learner, load

USAGE = """usage: python -m fewshot.classify checkpoint=PATH support=DIR query=DIR [KEY=VALUE ...]

  checkpoint=PATH   of a run, such as outputs/.../checkpoints/best.ckpt
  support=DIR       DIR/<class>/*: a few images of each class
  query=DIR         DIR/*: images to label; or DIR/<class>/*, to see how many are labelled right
  output=FILE.csv   write the labels here; with classes also FILE_confusion.csv and .png
  unlabeled=DIR     images without labels, for methods that use them
  bn=PROTOCOL       transductive, support or running; the run's own, if left out
  views=8           the mean over so many versions of all images, turned, scaled and shifted a little
  generator=false   let a MetaGAN adapt without generated images
  invert=true       dark strokes on white for a network of bright ones; the run's own, if left out
"""
REQUIRED = ("checkpoint", "support", "query")
SWITCHES = ("generator", "invert")
KEYS = (*REQUIRED, "output", "unlabeled", "bn", "views", *SWITCHES)
SHOWN = 40


@dataclass
class Labelled:
    """Predictions for a folder.

    Attributes:
        files: relative to the folder.
        classes: of the support set.
        probabilities: ``(M, N)``.
        truth: the class of each file, where the folder says it.
    """

    files: list[str]
    classes: list[str]
    probabilities: Tensor
    truth: list[str | None]

    @property
    def predicted(self) -> list[str]:
        return [self.classes[place] for place in self.probabilities.argmax(1).tolist()]


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; its exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments or {"-h", "--help"} & set(arguments):
        print(USAGE)
        return 0 if arguments else 1
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    quiet_libraries()
    try:
        run(parse(arguments))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"error: {error.filename}: {error.strerror}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 0


def parse(arguments: Sequence[str]) -> dict[str, str]:
    """``KEY=VALUE`` of each argument.

    Raises:
        UserError: a key is unknown, comes twice or is missing.
    """
    settings: dict[str, str] = {}
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if key not in KEYS or not equals or not value:
            raise UserError(f"{argument}: write KEY=VALUE, with one of {', '.join(KEYS)}")
        if key in settings:
            raise UserError(f"{key} is given twice")
        if key in SWITCHES and value not in ("true", "false"):
            raise UserError(f"{argument}: true or false")
        if key == "views" and not re.fullmatch("[1-9][0-9]{0,2}", value):
            raise UserError(f"{argument}: a number from 1 to 999")
        settings[key] = value
    if missing := [key for key in REQUIRED if key not in settings]:
        raise UserError(f"{' and '.join(f'{key}=...' for key in missing)} must be given")
    return settings


def run(settings: dict[str, str]) -> None:
    """Load, fit, label, print and write."""
    if settings.get("output", ".csv")[-4:] != ".csv":
        raise UserError(f"output={settings['output']}: give a name that ends in .csv")
    if "output" in settings and Path(settings["output"]).is_dir():
        raise UserError(f"output={settings['output']} is a folder: name a file")
    learner = load(settings["checkpoint"], settings.get("bn"))
    if "invert" in settings:
        learner = Learner(**{**vars(learner), "invert": settings["invert"] == "true"})
    labelled = label(
        learner, Path(settings["support"]), Path(settings["query"]),
        Path(settings["unlabeled"]) if "unlabeled" in settings else None, settings.get("generator") != "false",
        int(settings.get("views", 1)),
    )  # fmt: skip
    written = write(labelled, Path(settings["output"])) if "output" in settings else []
    console = Console(highlight=False)
    show(labelled, console)
    if learner.method.bn_protocol == "transductive":
        console.print("bn=transductive: a label depends on the other images too; bn=support makes it depend on none")
    for file in written:
        console.print(f"wrote {file}", soft_wrap=True, markup=False)


def label(
    learner: Learner, support: Path, query: Path, unlabeled: Path | None, generator: bool = True, views: int = 1
) -> Labelled:
    """Fit ``learner`` to the folder ``support`` and label the images of ``query``.

    Raises:
        UserError: a folder is missing, holds nothing readable or the wrong number of classes.
    """
    given = [(file.path, name) for name, files in _classes(support, "support").items() for file in files]
    x, rows = _decode(learner, [path for path, _ in given], support, "support")
    labels = [given[row][1] for row in rows]
    if missing := sorted({name for _, name in given} - set(labels)):
        raise UserError(f"support={support}: class {missing[0]} has no readable image")
    extra = None
    if unlabeled:
        extra, _ = _decode(
            learner, [file.path for file in list_images(_folder(unlabeled, "unlabeled"))], unlabeled, "unlabeled"
        )
    predict = learner.fit(x, labels, extra, generator, views)
    files = list_images(_folder(query, "query"))
    pixels, rows = _decode(learner, [file.path for file in files], query, "query")
    names = [str(Path(files[row].path).relative_to(query)) for row in rows]
    classes = [str(name) for name in predict.classes]
    return Labelled(names, classes, predict.probabilities(pixels), _truth(names, classes, query))


def _folder(path: Path, key: str) -> Path:
    if not path.is_dir():
        raise UserError(f"{key}={path} is no folder")
    return path


def _classes(path: Path, key: str) -> dict[str, list[File]]:
    classes = scan(_folder(path, key))
    if len(classes) < 2:
        raise UserError(
            f"{key}={path} holds {'one class' if classes else 'no class'}: put images of at least two into a folder "
            f"each, {key}/<class>/*"
        )
    return classes


def _decode(learner: Learner, paths: list[str], folder: Path, key: str) -> tuple[Tensor, list[int]]:
    """The readable images, and their places among ``paths``; says which are left out."""
    files = [Path(path) for path in paths]
    if learner.channels == 1:
        _refuse_colours(files)
    array, left_out = decode_all(files, learner.channels, learner.image_size, learner.fit_to, learner.invert)
    for path, reason in left_out:
        logging.warning("left out %s: %s", path, reason)
    if not len(array):
        raise UserError(f"{key}={folder} holds no readable image")
    bad = {path for path, _ in left_out}
    return torch.from_numpy(array), [row for row, file in enumerate(files) if file not in bad]


def _refuse_colours(files: list[Path]) -> None:
    """Colours would be lost on a network of grey images, and with them perhaps what tells the classes apart."""
    pixels, left_out = decode_all(files, 3, 32)
    coloured = (pixels.max(1).astype(int) - pixels.min(1)).max((1, 2), initial=0) > 30
    if coloured.any():
        bad = {path for path, _ in left_out}
        first = [file for file in files if file not in bad][int(coloured.argmax())]
        raise UserError(
            f"{first} has colours, but the network was trained on images of 1 channel: turn them grey first, "
            "or take a checkpoint of a run with data.channels=3"
        )


def _truth(names: list[str], classes: list[str], query: Path) -> list[str | None]:
    """The class of each file by its folder; nothing where files lie in none, or in others than the classes."""
    folders = [str(Path(name).parent) for name in names]
    known, unknown = set(folders) & set(classes), sorted(set(folders) - set(classes) - {"."})
    if known and unknown:
        raise UserError(f"query={query} has the folder {unknown[0]}, which is no class of the support set")
    return [folder if folder in classes else None for folder in folders]


def show(labelled: Labelled, console: Console) -> None:
    """Labels, and where the truth is known how many are right."""
    table = Table("file", "predicted", "probability")
    best = labelled.probabilities.amax(1).tolist()
    rows = list(zip(labelled.files, labelled.predicted, best, strict=True))
    for file, predicted, probability in rows[:SHOWN]:
        table.add_row(escape(file), escape(predicted), f"{probability:.3f}")
    console.print(table)
    if len(rows) > SHOWN:
        console.print(f"and {len(rows) - SHOWN} more")
    counts = _counts(labelled)
    if counts is None:
        return
    console.print(f"accuracy {counts.trace() / counts.sum():.4f} ({counts.trace()} of {counts.sum()})")
    for name, row, right in zip(labelled.classes, counts.sum(1), counts.diagonal(), strict=True):
        if row:
            console.print(f"  {name}: {right / row:.4f} ({right} of {row})", markup=False)


def _counts(labelled: Labelled) -> np.ndarray | None:
    """``(N, N)`` of true and predicted classes; None where no truth is known."""
    pairs = [
        (labelled.classes.index(true), labelled.classes.index(predicted))
        for true, predicted in zip(labelled.truth, labelled.predicted, strict=True)
        if true is not None
    ]
    if not pairs:
        return None
    truth, predicted = torch.tensor(pairs).T
    return multiclass_confusion_matrix(predicted, truth, len(labelled.classes)).numpy()


def write(labelled: Labelled, output: Path) -> list[Path]:
    """The CSV, and with a truth the confusion matrix; which files."""
    images = zip(labelled.files, labelled.predicted, labelled.probabilities.tolist(), strict=True)
    rows = ((file, predicted, *(f"{value:.6f}" for value in (max(row), *row))) for file, predicted, row in images)
    write_csv(output, ("file", "predicted", "probability", *labelled.classes), rows)
    counts = _counts(labelled)
    if counts is None:
        return [output]
    table, picture = (output.with_name(f"{output.stem}_confusion{ending}") for ending in (".csv", ".png"))
    confusion_matrix.write_counts(counts, labelled.classes, table)
    confusion_matrix.draw_counts(counts, labelled.classes, picture)
    return [output, table, picture]


if __name__ == "__main__":
    sys.exit(main())
