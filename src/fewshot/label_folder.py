"""Label a folder's images with another folder's classes."""

import logging
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from torch import Tensor

from fewshot.data.class_folders import composed, list_images, scan
from fewshot.data.image_conversion import Unreadable
from fewshot.data.images import decode_files
from fewshot.data.listing import File
from fewshot.data.paths import utf8_name
from fewshot.errors import UserError
from fewshot.figures import confusion_matrix
from fewshot.figures.label_page import LabelPage
from fewshot.files import printable
from fewshot.fitted_learner import FittedLearner
from fewshot.label_tally import Tally
from fewshot.labels_file import LabelsFile
from fewshot.learner import Learner
from fewshot.leave_one_out import UNKNOWN

log = logging.getLogger(__name__)
CHUNK = 128  # images that are decoded and labelled at a time

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Options:
    """Hold how a folder is labelled.

    Attributes:
        unlabeled: a folder of images without labels, for the methods that use them.
        generator, views, unknown: see ``fewshot.learner.Learner.fit``.
        output: the CSV file of the labels.
        page: the page of the labels.
    """

    unlabeled: Path | None = None
    generator: bool = True
    views: int = 1
    unknown: float | None = None
    output: Path | None = None
    page: Path | None = None


@dataclass(frozen=True)
class LabelledImages:
    """Hold some images of a folder, with their labels.

    Attributes:
        files: relative to the folder; bytes that are not UTF-8 are escapes such as ``\\xe9``.
        truth: the class of each file, None if not known.
        predicted: the label of each file.
        probabilities: ``(M, N)``.
        knownness: of each file.
        pixels: ``(M, C, S, S)`` uint8.
    """

    files: list[str]
    truth: list[str | None]
    predicted: list[str]
    probabilities: Tensor
    knownness: list[float]
    pixels: Tensor


def classify(learner: Learner, support: Path, query: Path, options: Options) -> None:
    """Label a folder with a method.

    The method of ``learner`` is fitted to ``support``. The labels of ``query`` are written to files while images are
    labelled, and then printed.

    Raises:
        UserError: a folder or file is missing or unusable, or the method cannot take the support set.
    """
    classes = _scan_classes(support)
    files = list_images(_folder(query, "query"))
    names = [utf8_name(str(Path(file.path).relative_to(query))) for file in files]
    truth = _truth(names, sorted(classes), query, options.unknown is not None)
    page = None
    if options.page:
        page = LabelPage(sorted(classes), None if options.unknown is None else UNKNOWN)
    fitted = _fit(learner, support, classes, options, page)
    _say_uncalibrated(fitted, len(classes))
    labels = [str(name) for name in fitted.classes]
    known = [true for true in truth if true not in (None, UNKNOWN)]
    tally = Tally(labels, None if options.unknown is None else UNKNOWN, bool(known))
    with ExitStack() as stack:
        table = stack.enter_context(LabelsFile(options.output, labels)) if options.output else None
        for images in _label(learner, fitted, files, names, truth, query):
            best = images.probabilities.amax(1).tolist()
            tally.add(images.files, images.predicted, best, images.truth)
            if table:
                table.add(images.files, images.predicted, images.probabilities.tolist(), images.knownness)
            if page:
                _add_to_page(page, images, best)
    _report(learner, tally, page, query, options)


def _report(learner: Learner, tally: Tally, page: LabelPage | None, query: Path, options: Options) -> None:
    """Print the labels, and then write what is drawn."""
    console = Console(highlight=False)
    print_labels(tally, console)
    if learner.method.bn_protocol == "transductive":
        console.print("bn=transductive: a label depends on the other images too; bn=support makes it depend on none")
    written = [options.output, *write_confusion(tally, options.output)] if options.output else []
    if page and options.page:
        page.write(options.page, f"Labels of {query.resolve().name}", _facts(tally, options))
        written.append(options.page)
    for file in written:
        console.print(f"wrote {printable(str(file))}", soft_wrap=True, markup=False)


def print_labels(tally: Tally, console: Console) -> None:
    """Print the first labels and the accuracy."""
    tally.print(console)


def _facts(tally: Tally, options: Options) -> list[tuple[str, str]]:
    facts = [("images", f"{tally.total}"), ("classes", f"{tally.classes}")]
    if options.unknown is not None:
        facts.append(("unknown", f"about {options.unknown:.1%} of the images of known classes are called unknown"))
    if tally.accuracy is not None:
        facts.append(("accuracy", f"{tally.accuracy:.1%}"))
    return facts


def _fit(
    learner: Learner, support: Path, classes: dict[str, list[File]], options: Options, page: LabelPage | None
) -> FittedLearner:
    """Fit the method to the support folder."""
    owners = [name for name, members in classes.items() for _ in members]
    x, rows = _decode(learner, [file for members in classes.values() for file in members], support, "support")
    given = [owners[row] for row in rows]
    if missing := sorted(set(classes) - set(given)):
        raise UserError(f"support={_shown(support)}: class {printable(missing[0])} has no readable image")
    extra = None
    if options.unlabeled:
        folder = _folder(options.unlabeled, "unlabeled")
        extra, _ = _decode(learner, list_images(folder), folder, "unlabeled")
    if page:
        for name, pixels in zip(given, x.numpy(), strict=True):
            page.add_support(name, pixels)
    return learner.fit(x, given, extra, options.generator, options.views, unknown=options.unknown)


def _say_uncalibrated(fitted: FittedLearner, classes: int) -> None:
    """Log that probabilities are no measured frequencies."""
    if fitted.trust and not fitted.trust.left_out:
        log.warning(
            "one image of each of %d classes: none can be left out, so the probabilities are not calibrated", classes
        )


def _label(
    learner: Learner,
    fitted: FittedLearner,
    files: Sequence[File],
    names: Sequence[str],
    truth: Sequence[str | None],
    query: Path,
) -> Iterator[LabelledImages]:
    """Yield the labels of some images at a time.

    So memory does not grow with the folder. Only images that are normalised together are all decoded first.
    """
    size = len(files) if learner.method.bn_protocol == "transductive" else CHUNK
    decoded = _readable(learner, files)
    found = False
    with closing(decoded):
        while chunk := list(islice(decoded, size)):
            found = True
            rows = [row for row, _ in chunk]
            pixels = torch.from_numpy(np.stack([image for _, image in chunk]))
            scores = fitted.scores(pixels)
            yield LabelledImages(
                [names[row] for row in rows],
                [truth[row] for row in rows],
                [str(label) for label in fitted.labels(scores)],
                scores.probabilities,
                scores.knownness.tolist(),
                pixels,
            )
    if not found:
        raise UserError(f"query={_shown(query)} holds no readable image")


def _add_to_page(page: LabelPage, images: LabelledImages, best: Sequence[float]) -> None:
    likely = images.probabilities.argmax(1).tolist()
    rows = zip(images.files, images.predicted, best, images.knownness, images.truth, images.pixels.numpy(), strict=True)
    for place, (file, label, probability, known, true, pixels) in zip(likely, rows, strict=True):
        if label == page.unknown:
            page.add(file, label, probability, -known, true, pixels, page.classes[place])
        else:
            page.add(file, label, probability, probability, true, pixels)


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
    found = list(_readable(learner, files))
    if not found:
        raise UserError(f"{key}={_shown(folder)} holds no readable image")
    return torch.from_numpy(np.stack([pixels for _, pixels in found])), [row for row, _ in found]


def _readable(learner: Learner, files: Sequence[File]) -> Generator[tuple[int, Pixels], None, None]:
    """Yield the row number and pixels of each readable image."""
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
        yield row, image.pixels


def _truth(names: list[str], classes: list[str], query: Path, with_unknown: bool) -> list[str | None]:
    """Return each file's class, None if not known.

    The class is the first folder in the name of the file. ``with_unknown``, images in other folders are of no class,
    if there are images of classes too.
    """
    folders = [composed(name.split("/")[0]) if "/" in name else None for name in names]
    known = set(classes)
    truth = [folder if folder in known else None for folder in folders]
    others = sorted({folder for folder in folders if folder is not None} - known)
    if not others or not any(truth):
        return truth
    if with_unknown:
        return [
            UNKNOWN if true is None and folder is not None else true
            for true, folder in zip(truth, folders, strict=True)
        ]
    log.warning(
        "query=%s: images in folders that are no class of the support set are labelled, but not counted: %s",
        _shown(query),
        printable(", ".join(others[:5])),
    )
    return truth


def write_confusion(tally: Tally, output: Path) -> list[Path]:
    """Write and draw the confusion matrix.

    Return the files, which lie beside ``output``; none if no true class is known.
    """
    if tally.counts is None:
        return []
    table = output.with_name(f"{output.stem}_confusion.csv")
    picture = output.with_name(f"{output.stem}_confusion.png")
    confusion_matrix.write_counts(tally.counts, tally.names, table)
    confusion_matrix.draw_counts(tally.counts, tally.names, picture)
    return [file for file in (table, picture) if file.exists()]
