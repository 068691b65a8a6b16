"""Label your own images from the command line.

Usage: ``python -m fewshot.classify backbone=NAME support=DIR query=DIR [output=FILE.csv]``, or ``checkpoint=PATH`` in
place of ``backbone=NAME``.
"""

import logging
import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from fewshot.errors import UserError
from fewshot.files import printable
from fewshot.startup import prepare_process, quiet_libraries

if TYPE_CHECKING:
    from fewshot.learner import Learner

USAGE = """usage: python -m fewshot.classify backbone=NAME   support=DIR query=DIR [KEY=VALUE ...]
       python -m fewshot.classify checkpoint=PATH support=DIR query=DIR [KEY=VALUE ...]

  backbone=NAME     a pretrained network, with no training: efficientnet_lite0, or a name of timm
  checkpoint=PATH   of a run, such as outputs/.../checkpoints/best.ckpt
  support=DIR       DIR/<class>/*: a few images of each class
  query=DIR         DIR/*: images to label; or DIR/<class>/*, to see how many are labelled right
  output=FILE.csv   write the labels here; with classes also FILE_confusion.csv and .png
  page=FILE.html    the images by label, to check by eye; FILE.html beside output=FILE.csv, if left out; or false
  unknown=RATE      label images of no class "unknown", and so about this part of the others too, such as 0.05
  invert=true       dark strokes on white for a network of bright ones; the run's own, if left out
  views=8           the mean over so many versions of all images, rotated, scaled and shifted a little

with backbone=
  method=NAME       simpleshot (if left out), ridge, logistic or protonet
  weights=FILE      of a network of timm: .safetensors, .pth or .bin

with checkpoint=
  unlabeled=DIR     images without labels, for methods that use them
  bn=PROTOCOL       transductive, support or running; the run's own, if left out
  generator=false   let a MetaGAN adapt without generated images
  trust=NAME,NAME   names outside this project that the checkpoint may build, such as mine.Images
"""
SOURCES = ("backbone", "checkpoint")
REQUIRED = ("support", "query")
OF_BACKBONE = ("method", "weights")
OF_CHECKPOINT = ("unlabeled", "bn", "generator", "trust")
PATHS = ("checkpoint", *REQUIRED, "output", "page", "unlabeled", "weights")
SWITCHES = ("generator", "invert")
KEYS = (*SOURCES, *REQUIRED, "output", "page", "unknown", "invert", "views", *OF_BACKBONE, *OF_CHECKPOINT)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments or {"-h", "--help"} & set(arguments):
        print(USAGE)
        return 0 if arguments else 1
    prepare_process()  # before torch loads
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    quiet_libraries()
    try:
        label(parse(arguments))
    except UserError as error:
        print(f"error: {printable(str(error))}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"error: {printable(str(error.filename or 'a file'))}: {error.strerror or error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 0


def parse(arguments: Sequence[str]) -> dict[str, str]:
    """Return the keys and values of ``KEY=VALUE`` arguments.

    Raises:
        UserError: a key is unknown, comes twice or is missing, or a value is impossible.
    """
    settings: dict[str, str] = {}
    for argument in arguments:
        key, equals, value = argument.partition("=")
        shown = printable(argument)
        if key not in KEYS or not equals or not value:
            raise UserError(f"{shown}: write KEY=VALUE, with one of {', '.join(KEYS)}")
        if key in settings:
            raise UserError(f"{key} is given twice")
        if key in SWITCHES and value not in ("true", "false"):
            raise UserError(f"{shown}: true or false")
        if key == "views" and not re.fullmatch("[1-9][0-9]{0,2}", value):
            raise UserError(f"{shown}: a number from 1 to 999")
        if key == "unknown" and not _is_rate(value):
            raise UserError(f"{shown}: a rate between 0 and 1, such as 0.05")
        settings[key] = _expand_home(key, value) if key in PATHS else value
    _refuse_mixture(settings)
    for key, suffix in (("output", ".csv"), ("page", ".html")):
        value = settings.get(key, "false")
        if value == "false" and key == "page":
            continue
        if key in settings and Path(value).suffix != suffix:
            raise UserError(f"{key}={printable(value)}: give a name that ends in {suffix}")
        if Path(value).is_dir():
            raise UserError(f"{key}={printable(value)} is a folder: name a file")
    return settings


def _refuse_mixture(settings: dict[str, str]) -> None:
    """Refuse settings that lack others, or do not go with others."""
    given = [key for key in SOURCES if key in settings]
    if len(given) > 1:
        raise UserError("backbone= needs no training, and checkpoint= is of a run: give one of both")
    missing = [key for key in REQUIRED if key not in settings]
    if not given:
        named = f" and {' and '.join(f'{key}=...' for key in missing)}" if missing else ""
        raise UserError(f"backbone=NAME or checkpoint=PATH{named} must be given")
    if missing:
        raise UserError(f"{' and '.join(f'{key}=...' for key in missing)} must be given")
    for key in OF_CHECKPOINT if given == ["backbone"] else OF_BACKBONE:
        if key in settings:
            other = "checkpoint" if given == ["backbone"] else "backbone"
            raise UserError(f"{key}= goes with {other}=, not with {given[0]}=")


def _is_rate(text: str) -> bool:
    try:
        return 0 < float(text) < 1
    except ValueError:
        return False


def _expand_home(key: str, value: str) -> str:
    try:
        return str(Path(value).expanduser())
    except RuntimeError as error:
        raise UserError(f"{key}={printable(value)}: there is no such home folder: name the folder in full") from error


def label(settings: dict[str, str]) -> None:
    """Label a folder by the parsed settings."""
    from fewshot.label_folder import Options, classify  # takes seconds, which the usage need not

    learner = _learner(settings)
    if "invert" in settings:
        learner = replace(learner, invert=settings["invert"] == "true")
    output = Path(settings["output"]) if "output" in settings else None
    page = Path(settings["page"]) if "page" in settings else output and output.with_suffix(".html")
    options = Options(
        Path(settings["unlabeled"]) if "unlabeled" in settings else None,
        settings.get("generator") != "false",
        int(settings.get("views", 1)),
        float(settings["unknown"]) if "unknown" in settings else None,
        output,
        None if settings.get("page") == "false" else page,
    )
    classify(learner, Path(settings["support"]), Path(settings["query"]), options)


def _learner(settings: dict[str, str]) -> "Learner":
    """Build the learner that the settings name."""
    if "checkpoint" in settings:
        from fewshot.learner import load

        return load(
            settings["checkpoint"], settings.get("bn"), settings["trust"].split(",") if "trust" in settings else ()
        )
    from fewshot.pretrained_learner import pretrained

    return pretrained(settings["backbone"], **{key: settings[key] for key in OF_BACKBONE if key in settings})


if __name__ == "__main__":
    sys.exit(main())
