"""Write a table in four formats.

The formats are Markdown, CSV, LaTeX and text for a terminal.
"""

import math
import re
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from rich import box
from rich.console import Group
from rich.table import Table as Grid
from rich.text import Text

from fewshot.files import write_bytes
from fewshot.open_set import SCORES
from fewshot.report import published
from fewshot.report.csv_table import csv_text
from fewshot.report.table import MARK, Row, Table

_HEADER = (
    *("run", "accuracy", "published", "seeds", "difference", "p", "by seed", "verdict"),
    *("AUROC", "AUROC diff.", "FPR95", "FPR95 diff."),
    *("time", "ep/s", "MB", "params", "adapted"),
)
_OF_SEEDS = {"seeds", "by seed", "verdict"}
_OPEN_SET = {"AUROC", "AUROC diff.", "FPR95", "FPR95 diff."}
_TOO_WIDE = {"published", "p", "ep/s", "MB", "params", "adapted"}  # for several seeds in 80 columns


def markdown(table: Table) -> str:
    """Return a GitHub table with notes and footnotes."""
    header, *rows = shown(table)
    lines = [_line((*header, "notes")), _line(["---"] + ["---:"] * (len(header) - 1) + ["---"])]
    lines += [
        _line([_escape(cell) for cell in (*cells, row.note)]) for cells, row in zip(rows, table.rows, strict=True)
    ]
    return "\n\n".join(["\n".join(lines), *map(_escape, footnotes(table))]) + "\n"


def latex(table: Table) -> str:
    """Return a table with booktabs rules and footnotes.

    LaTeX reads the text by ``\\input``.
    """
    too_wide = {"p", "FPR95 diff."} if any(row.open_set for row in table.rows) else set()
    header, *rows = shown(table, without={"time", "ep/s", "MB", "params"} | too_wide)
    tasks = ", ".join(dict.fromkeys(row.task for row in table.rows if row.runs))
    lines = ["% needs \\usepackage{booktabs}", r"\begin{table}", r"\centering"]
    lines += [rf"\caption{{Test accuracy: {_tex(tasks)}}}", r"\small\setlength{\tabcolsep}{4pt}"]
    # A long label would push the numbers off the page.
    long = any(len(row.label) > 30 for row in table.rows)
    label = r"p{.3\linewidth}" if long else "l"
    lines += [rf"\begin{{tabular}}{{{label}{'r' * (len(header) - 1)}}}", r"\toprule", _tex_line(header)]
    group: int | None = -1
    for line, row in zip(rows, table.rows, strict=True):
        if row.group != group:
            lines.append(r"\midrule")
        group = row.group
        lines.append(r"\raggedright " * long + _tex_line(line))
    lines += [r"\bottomrule", r"\end{tabular}", r"\par\smallskip\footnotesize\raggedright"]
    lines += [_tex(note) + r"\par" for note in footnotes(table)]
    return "\n".join([*lines, r"\end{table}", ""])


def terminal(table: Table) -> Group:
    """Build the table for ``rich.console.Console.print``.

    The terminal has 80 columns or more.
    """
    grid = Grid(box=box.SIMPLE_HEAD, padding=0, pad_edge=False)
    # Only the label may wrap; a number broken over two lines cannot be read.
    without = _TOO_WIDE if _has_seeds(table) else {"published"}
    if any(row.open_set for row in table.rows):
        without = _TOO_WIDE | {"time", "FPR95", "FPR95 diff."} | ({"seeds", "by seed"} if _has_seeds(table) else set())
    header, *rows = shown(table, without)
    grid.add_column(header[0], overflow="fold")
    for name in header[1:]:
        grid.add_column(name, justify="right", no_wrap=True)
    for cells, row, following in zip(rows, table.rows, (*table.rows[1:], None), strict=True):
        ends_group = following is not None and following.group != row.group
        # Text, since "[64,64]" in a label would be read as markup.
        grid.add_row(*map(Text, cells), style=None if row.runs else "red", end_section=ends_group)
    labels: dict[str, list[str]] = {}
    for row in table.rows:
        if row.note:
            labels.setdefault(row.note, []).append(row.label)
    notes = [f"{', '.join(names)}: {note}" for note, names in labels.items()]
    return Group(grid, *map(Text, notes), *(Text(line, style="dim") for line in table.footnotes))


def write(table: Table, folder: Path) -> None:
    """Write the report files into ``folder``.

    The files are ``report.md``, ``report.csv`` and ``report.tex``; the folder is made if absent.

    Raises:
        UserError: a file cannot be written.
    """
    write_bytes(folder / "report.md", markdown(table).encode())
    write_bytes(folder / "report.csv", csv_text(table).encode())
    write_bytes(folder / "report.tex", latex(table).encode())


def plus_minus(row: Row) -> str:
    """Return percents such as ``93.12 ± 0.41``.

    A single episode gives no interval.
    """
    return _percent(row.accuracy, row.half_width, sign="")


def footnotes(table: Table) -> tuple[str, ...]:
    """Return footnotes of the table and published numbers."""
    return table.footnotes + published.footnotes([number for row in table.rows for number in row.published])


def shown(table: Table, without: Collection[str] = ()) -> list[list[str]]:
    """Return header and rows without empty columns.

    The columns ``without`` are left out too.
    """
    hidden = {*without, *(() if _has_seeds(table) else _OF_SEEDS)}
    hidden |= set() if any(row.published for row in table.rows) else {"published"}
    hidden |= set() if len({row.average("adapted_parameters") for row in table.rows} - {None, 0}) > 1 else {"adapted"}
    if not any(row.open_set for row in table.rows):
        hidden |= _OPEN_SET
    lines = [_HEADER, *map(_cells, table.rows)]
    return [[cell for name, cell in zip(_HEADER, line, strict=True) if name not in hidden] for line in lines]


def _has_seeds(table: Table) -> bool:
    return any(len(row.runs) > 1 for row in table.rows)


def _cells(row: Row) -> tuple[str, ...]:
    if not row.runs:
        return (row.label, row.outcome, *[""] * (len(_HEADER) - 2))
    difference = "reference" if row.is_reference else ""
    p_value = ""
    if row.paired:
        mark = MARK if row.bn_pair else ""
        difference = _percent(row.paired.difference, row.paired.half_width, sign="+") + mark
        p_value = _p(row.paired.p_value)
    return (
        row.label,
        plus_minus(row),
        "; ".join(map(_published, row.published)),
        str(len(row.runs)) + _known(row.seed_sd, lambda value: f", sd {100 * value:.2f}"),
        difference,
        p_value,
        _percent(row.by_seed.difference, row.by_seed.half_width, sign="+") if row.by_seed else "",
        row.verdict,
        *_open_set_cells(row),
        _known(row.average("seconds"), _duration),
        _known(row.average("episodes_per_second"), lambda value: f"{value:.3g}" if value < 100 else f"{value:.0f}"),
        _known(row.average("peak_memory_mb"), lambda value: f"{value:.0f}"),
        _known(row.average("parameters"), _count),
        _known(row.average("adapted_parameters"), _count),
    )


def _open_set_cells(row: Row) -> list[str]:
    cells = []
    for name in SCORES:
        measure = row.open_set.get(name)
        pair = None if measure is None else measure.paired
        cells.append("" if measure is None else _percent(measure.mean, measure.half_width, sign=""))
        cells.append("" if pair is None else _percent(pair.difference, pair.half_width, sign="+"))
    return cells


def _published(number: published.Published) -> str:
    # As many digits as its authors gave, or as few.
    value, half_width = (f"{100 * fraction:.4g}" for fraction in (number.value, number.half_width))
    spread = "" if math.isnan(number.half_width) else f" ± {half_width}"
    return value + spread + (published.MARK if number.provenance == "recalled" else "")


def _known(value: float | None, show: Callable[[float], str]) -> str:
    return "" if value is None or math.isnan(value) else show(value)


def _percent(value: float, half_width: float, sign: str) -> str:
    return f"{100 * value:{sign}.2f}" + ("" if math.isnan(half_width) else f" ± {100 * half_width:.2f}")


def _p(value: float) -> str:
    return _known(value, lambda p: "<0.001" if p < 0.001 else f"{p:.3f}")


def _duration(seconds: float) -> str:
    for size, unit in ((3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.{1 if seconds < 10 * size else 0}f} {unit}"
    return f"{seconds:.0f} s"


def _count(value: float) -> str:
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.0f}"


def _line(cells: list[str] | tuple[str, ...]) -> str:
    return f"| {' | '.join(cells)} |"


def _escape(text: str) -> str:
    """Escape a text for a table cell.

    The text can then not end a cell, open a tag, or link elsewhere.
    """
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;").replace("](", "]\\(")


_TEX = str.maketrans({character: "\\" + character for character in "&%$#_{}"} | {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "<": "$<$", ">": "$>$", "|": r"\textbar{}", "±": r"$\pm$", MARK: r"$^\dagger$", published.MARK: r"$^\ddagger$",
})  # fmt: skip


def _tex(text: str) -> str:
    """Return ``text`` escaped for LaTeX.

    A minus before a number gets its full width.
    """
    return re.sub(r"(^|\s)-(?=\d)", r"\1$-$", " ".join(text.split()).translate(_TEX))


def _tex_line(line: Sequence[str]) -> str:
    return " & ".join(map(_tex, line)) + r" \\"
