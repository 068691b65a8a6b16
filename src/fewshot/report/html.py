"""The report as one HTML file that holds its images and needs nothing else."""

import shlex
from base64 import b64encode
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
from fewshot.report.formats import footnotes, shown
from fewshot.report.read_runs import Failure, Run
from fewshot.report.table import Table

_ALBUMS = 24  # runs whose own images are embedded: a page of some ten megabytes
_SKIPPED = "generated_step*.png"  # generated_over_time.png has them all
_NAMED = 6  # methods in the title
_DPI = 150  # of all our figures; a page counts 96 pixels an inch


@dataclass(frozen=True)
class Figure:
    """A PNG file of the report with what the page says about it; a ``wide`` one scrolls rather than shrinks."""

    file: Path
    title: str
    caption: str
    wide: bool = False


def page(table: Table, failures: Sequence[Failure], figures: Sequence[Figure], own: Path) -> str:
    """The whole page.

    Args:
        table: what ``compare`` made of the runs and of ``failures``.
        failures: in the order of their rows.
        figures: in the order of the page.
        own: folder of the report's figures, which are no run's even where a run has the same folder.

    Raises:
        UserError: a figure cannot be read.
    """
    runs = [(row.name(run), run) for row in table.rows for run in row.runs]
    started: list[tuple[str, Run | Failure]] = [*runs]
    failed = list(zip([row for row in table.rows if not row.runs], failures, strict=True))
    started += [(row.label, failure) for row, failure in failed]
    albums = [(name, run, files) for name, run in runs if (files := _images(run, own))]
    return _template().render(
        title=_title(table),
        facts=_facts(table, [run for _, run in runs]),
        groups=_groups(table),
        figures=[
            _embedded(figure.file) | {"title": figure.title, "caption": figure.caption, "wide": figure.wide}
            for figure in figures
        ],
        albums=[
            {
                "label": name,
                "accuracy": f"{100 * run.accuracy.mean():.2f}%",
                "images": [_embedded(file) | {"caption": CAPTIONS.get(file.stem, "")} for file in files],
            }
            for name, run, files in albums[:_ALBUMS]
        ],
        left_out=len(albums[_ALBUMS:]),
        notes=footnotes(table),
        failures=[{"label": row.label, "error": row.note} for row, _ in failed],
        commands=[
            {"label": name, "text": shlex.join(("python", "run.py", *run.overrides)), "folder": run.path}
            for name, run in started
        ],
    )


@cache
def _template() -> Template:
    text = Path(__file__).with_name("page.html").read_text(encoding="utf-8")
    return Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True).from_string(text)


def _title(table: Table) -> str:
    """``glyphs 5w1s: protonet, maml``; without finished runs there is nothing to name."""
    tasks = dict.fromkeys(rows[0].task for rows in table.groups)
    methods = list(dict.fromkeys(row.runs[0].label for rows in table.groups for row in rows))
    more = f" and {len(methods) - _NAMED} more" if len(methods) > _NAMED else ""
    return f"{', '.join(tasks)}: {', '.join(methods[:_NAMED])}{more}" if tasks else "No finished runs"


def _facts(table: Table, runs: Sequence[Run]) -> list[tuple[str, str]]:
    failed = sum(not row.runs for row in table.rows)
    settings = len(table.rows) - failed
    counts = (
        f"{len(runs)} finished run{'s' * (len(runs) != 1)} of {settings} setting{'s' * (settings != 1)}"
        + f"; {failed} failed" * (failed > 0)
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
    """A table a group: what a Markdown report has, the notes only where there are some."""
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


def _images(run: Run, own: Path) -> list[Path]:
    folder = run.path / "figures"
    if folder.resolve() == own.resolve():
        return []
    return [file for file in sorted(folder.glob("*.png")) if not file.match(_SKIPPED)]


def _embedded(file: Path) -> dict[str, Any]:
    """The image as a ``data:`` URI with its size on the page and its name in words."""
    try:
        content = file.read_bytes()
        with Image.open(BytesIO(content), formats=("PNG",)) as image:
            width, height = (round(side * 96 / _DPI) for side in image.size)
    except OSError as error:  # Pillow's are of this kind
        raise UserError(f"{file}: not a PNG image that can be read") from error
    source = f"data:image/png;base64,{b64encode(content).decode()}"
    return {"source": source, "width": width, "height": height, "title": file.stem.replace("_", " ")}
