"""Label your own images from the command line.

Usage: ``python -m fewshot.classify checkpoint=PATH support=DIR query=DIR [output=FILE.csv]``.
"""

import logging
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from fewshot.errors import UserError
from fewshot.files import printable
from fewshot.startup import prepare_process, quiet_libraries

USAGE = """usage: python -m fewshot.classify checkpoint=PATH support=DIR query=DIR [KEY=VALUE ...]

  checkpoint=PATH   of a run, such as outputs/.../checkpoints/best.ckpt
  support=DIR       DIR/<class>/*: a few images of each class
  query=DIR         DIR/*: images to label; or DIR/<class>/*, to see how many are labelled right
  output=FILE.csv   write the labels here; with classes also FILE_confusion.csv and .png
  unlabeled=DIR     images without labels, for methods that use them
  bn=PROTOCOL       transductive, support or running; the run's own, if left out
  views=8           the mean over so many versions of all images, rotated, scaled and shifted a little
  generator=false   let a MetaGAN adapt without generated images
  invert=true       dark strokes on white for a network of bright ones; the run's own, if left out
  trust=NAME,NAME   names outside this project that the checkpoint may build, such as mine.Images
"""
REQUIRED = ("checkpoint", "support", "query")
PATHS = (*REQUIRED, "output", "unlabeled")
SWITCHES = ("generator", "invert")
KEYS = (*PATHS, "bn", "views", *SWITCHES, "trust")


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
        settings[key] = _expand_home(key, value) if key in PATHS else value
    if missing := [key for key in REQUIRED if key not in settings]:
        raise UserError(f"{' and '.join(f'{key}=...' for key in missing)} must be given")
    output = settings.get("output", ".csv")
    if output[-4:] != ".csv":
        raise UserError(f"output={printable(output)}: give a name that ends in .csv")
    if Path(output).is_dir():
        raise UserError(f"output={printable(output)} is a folder: name a file")
    return settings


def _expand_home(key: str, value: str) -> str:
    try:
        return str(Path(value).expanduser())
    except RuntimeError as error:
        raise UserError(f"{key}={printable(value)}: there is no such home folder: name the folder in full") from error


def label(settings: dict[str, str]) -> None:
    """Label a folder by the parsed settings."""
    from fewshot.label_folder import classify  # takes seconds, which the usage need not

    classify(
        settings["checkpoint"],
        Path(settings["support"]),
        Path(settings["query"]),
        Path(settings["output"]) if "output" in settings else None,
        Path(settings["unlabeled"]) if "unlabeled" in settings else None,
        settings.get("bn"),
        int(settings.get("views", 1)),
        settings.get("generator") != "false",
        settings["invert"] == "true" if "invert" in settings else None,
        settings["trust"].split(",") if "trust" in settings else (),
    )


if __name__ == "__main__":
    sys.exit(main())
