"""Render the report as one HTML file.

The file holds its images and needs nothing else.
"""

import shlex
import warnings
from base64 import b64encode
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined, Template
from PIL import Image

from fewshot.errors import UserError
from fewshot.figures.captions import CAPTIONS
from fewshot.files import MEGABYTE, printable, read_bytes
from fewshot.report.formats import footnotes, shown
from fewshot.report.label import shortened
from fewshot.report.read_runs import Failure, Run
from fewshot.report.table import Table

_ALBUMS = 24  # runs whose own images are embedded: a page of some ten megabytes
_MOST_IMAGES = 40  # of a run
_IMAGE_BYTES = 16 * MEGABYTE
_PAGE_BYTES = 100 * MEGABYTE  # of the runs' own images
_MOST_PIXELS = 50e6  # of an image, which a browser decodes whole
_SKIPPED = "generated_step*.png"  # generated_over_time.png has them all
_NAMED = 6  # methods in the title
_DPI = 150  # of all our figures; a page counts 96 pixels an inch


@dataclass(frozen=True)
class Figure:
    """Name a PNG file with title and caption.

    A ``wide`` figure scrolls.
    """

    file: Path
    title: str
    caption: str
    wide: bool = False


def render_page(table: Table, failures: Sequence[Failure], figures: Sequence[Figure], own: Path) -> str:
    """Render the whole page.

    Args:
        table: the comparison of the runs and of ``failures``.
        failures: in the order of their rows.
        figures: in the order of the page.
        own: folder of the report's figures, which belong to no run even where a run has the same folder.

    Raises:
        UserError: a figure of the report cannot be read.
    """
    runs = [(row.name(run), run) for row in table.rows for run in row.runs]
    started: list[tuple[str, Run | Failure]] = [*runs]
    failed = list(zip([row for row in table.rows if not row.runs], failures, strict=True))
    started += [(row.label, failure) for row, failure in failed]
    with_images = [(name, run) for name, run in runs if _has_images(run, own)]
    return _template().render(
        title=_title(table),
        facts=_facts(table, [run for _, run in runs]),
        groups=_groups(table),
        figures=[
            _embedded(figure.file, figure.file.parent)
            | {"title": figure.title, "caption": figure.caption, "wide": figure.wide}
            for figure in figures
        ],
        albums=_albums(with_images[:_ALBUMS]),
        left_out=len(with_images[_ALBUMS:]),
        notes=footnotes(table),
        failures=[{"label": row.label, "error": row.note} for row, _ in failed],
        commands=[
            {
                "label": name,
                "text": shlex.join(("python", "run.py", *run.overrides)),
                "folder": printable(str(run.path)),
            }
            for name, run in started
        ],
    )


@cache
def _template() -> Template:
    text = Path(__file__).with_name("page.html").read_text(encoding="utf-8")
    return Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True).from_string(text)


def _title(table: Table) -> str:
    """Return a title such as ``glyphs 5w1s: protonet, maml``."""
    if not table.groups:
        return "No finished runs"
    tasks = list(dict.fromkeys(rows[0].task for rows in table.groups))
    methods = list(dict.fromkeys(shortened(row.runs[0].label) for rows in table.groups for row in rows))
    return f"{_some(tasks)}: {_some(methods)}"


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def _facts(table: Table, runs: Sequence[Run]) -> list[tuple[str, str]]:
    outcomes = Counter(row.outcome for row in table.rows if not row.runs)
    settings = len(table.rows) - outcomes.total()
    counts = f"{len(runs)} finished run{'s' * (len(runs) != 1)} of {settings} setting{'s' * (settings != 1)}" + "".join(
        f"; {count} {outcome}" for outcome, count in outcomes.items()
    )
    if not runs:
        return [("Runs", counts)]
    times = [datetime.fromtimestamp(run.finished, UTC) for run in runs]
    first, last = (f"{time:%Y-%m-%d %H:%M}" for time in (min(times), max(times)))
    return [
        ("Runs", counts),
        ("Finished", first + (f" to {last}" if last != first else "") + " UTC"),
        *(
            (name, ", ".join(values) or "not known")
            for name, values in (
                ("Commit", dict.fromkeys(run.commit for run in runs if run.commit)),
                ("Device", dict.fromkeys(run.device for run in runs if run.device)),
            )
        ),
    ]


def _groups(table: Table) -> list[dict[str, Any]]:
    """Return each group's table cells, with any notes."""
    header, *lines = shown(table)
    cells = dict(zip(table.rows, lines, strict=True))
    return [
        {
            "title": rows[0].task,
            "header": [*header, "notes"] if noted else header,
            "rows": [[*cells[row], row.note] if noted else cells[row] for row in rows],
        }
        for rows in table.groups
        for noted in [any(row.note for row in rows)]
    ]


def _has_images(run: Run, own: Path) -> bool:
    folder = run.path / "figures"
    return folder.resolve() != own.resolve() and any(folder.glob("*.png"))


def _albums(runs: Sequence[tuple[str, Run]]) -> list[dict[str, Any]]:
    """Embed the images of each run.

    An image that cannot be shown is named.
    """
    albums = []
    space = _PAGE_BYTES
    for name, run in runs:
        images = []
        for file in _own_images(run):
            image = _own_image(file, run, space)
            space -= len(image["source"])
            images.append(image)
        albums.append({"label": name, "accuracy": f"{100 * run.accuracy.mean():.2f}%", "images": images})
    return albums


def _own_images(run: Run) -> list[Path]:
    folder = run.path / "figures"
    if not folder.resolve().is_relative_to(run.path.resolve()):
        return [folder]  # whose files are not even listed
    return [file for file in sorted(folder.glob("*.png")) if not file.match(_SKIPPED)][:_MOST_IMAGES]


def _own_image(file: Path, run: Run, space: int) -> dict[str, Any]:
    try:
        image = _embedded(file, run.path)
        problem = "left out, since the page is full" if len(image["source"]) > space else ""
    except UserError as error:
        problem = printable(str(error))
    if problem:
        image = {"source": "", "width": 0, "height": 0, "title": printable(file.stem, 60)}
    return image | {"caption": CAPTIONS.get(file.stem, ""), "problem": problem}


def _embedded(file: Path, inside: Path) -> dict[str, Any]:
    """Return an image as ``data:`` URI, size and title.

    Raises:
        UserError: the file is no PNG image, too large, or outside of the folder ``inside``.
    """
    content = read_bytes(file, inside, _IMAGE_BYTES)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # refused below
            with Image.open(BytesIO(content), formats=("PNG",)) as image:
                size = image.size
    except Image.DecompressionBombError as error:
        raise UserError(f"{file}: more than {_MOST_PIXELS / 1e6:.0f} megapixels") from error
    except (OSError, ValueError, SyntaxError) as error:
        raise UserError(f"{file}: not a PNG image that can be read") from error
    if size[0] * size[1] > _MOST_PIXELS:
        raise UserError(f"{file}: more than {_MOST_PIXELS / 1e6:.0f} megapixels")
    width, height = (round(side * 96 / _DPI) for side in size)
    source = f"data:image/png;base64,{b64encode(content).decode()}"
    return {"source": source, "width": width, "height": height, "title": printable(file.stem.replace("_", " "), 60)}
