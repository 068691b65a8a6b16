"""A report as files."""

from collections.abc import Iterable
from pathlib import Path

from fewshot.report.boundary import boundaries
from fewshot.report.collect import collect
from fewshot.report.compare import Table, compare
from fewshot.report.plot import accuracies
from fewshot.report.render import write


def report(paths: Iterable[str | Path], folder: Path | None) -> Table:
    """Compare the runs at or below ``paths``.

    With a ``folder`` also write ``report.md``, ``report.csv`` and ``accuracies.png`` there; guessing
    is drawn where all runs have the same number of ways. Where runs left ``figures/boundary.npz``, these
    come side by side into ``boundaries.png``.

    Raises:
        UserError: there are no runs, one is damaged, or ``folder`` cannot be written.
    """
    runs, failures = collect(paths)
    table = compare(runs, failures)
    if folder:
        write(table, folder)
        ways = {run.ways for run in runs}
        accuracies(table, folder / "accuracies.png", chance=1 / ways.pop() if len(ways) == 1 else None)
        if files := _boundary_files(table):
            boundaries(files, folder / "boundaries.png")
    return table


def _boundary_files(table: Table) -> dict[str, Path]:
    """The decision boundaries that runs saved, by the name and test accuracy of each."""
    return {
        f"{row.label}{f' seed={run.seed}' if len(row.runs) > 1 else ''}\n"
        f"test accuracy {100 * run.stated_accuracy:.1f}%": run.path / "figures/boundary.npz"
        for row in table.rows
        for run in row.runs
        if (run.path / "figures/boundary.npz").is_file()
    }
