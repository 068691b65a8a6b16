"""A report as files."""

from collections.abc import Iterable
from pathlib import Path

from fewshot.report.collect import collect
from fewshot.report.compare import Table, compare
from fewshot.report.plot import accuracies
from fewshot.report.render import write


def report(paths: Iterable[str | Path], folder: Path | None) -> Table:
    """Compare the runs at or below ``paths``.

    With a ``folder`` also write ``report.md``, ``report.csv`` and ``accuracies.png`` there; guessing
    is drawn where all runs have the same number of ways.

    Raises:
        UserError: there are no runs, one is damaged, or ``folder`` cannot be written.
    """
    runs, failures = collect(paths)
    table = compare(runs, failures)
    if folder:
        write(table, folder)
        ways = {run.ways for run in runs}
        accuracies(table, folder / "accuracies.png", chance=1 / ways.pop() if len(ways) == 1 else None)
    return table
