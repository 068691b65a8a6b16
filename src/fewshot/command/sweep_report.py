"""Report a sweep at its end."""

import sys
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig
from rich.console import Console

from fewshot.errors import UserError
from fewshot.files import printable
from fewshot.report.build import report
from fewshot.report.formats import terminal


class SweepReport(Callback):
    """Print and write the report of a sweep.

    The table of all runs is printed. ``fewshot.report.build.report`` writes the report beside the runs. The sweep exits
    with status 1 where a run failed.
    """

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        folder = Path(config.hydra.sweep.dir)
        try:
            table = report([folder], folder)
        except UserError as error:
            sys.exit(f"error: {printable(str(error))}")
        Console(highlight=False).print(terminal(table))
        print(f"report: {folder / 'report.html'} (and .md, .csv, .tex)")
        if any(not row.runs for row in table.rows):
            sys.exit(1)
