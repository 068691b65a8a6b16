"""What a sweep does at its end. A command module: it may see Hydra."""

import sys
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig
from rich.console import Console

from fewshot.errors import UserError
from fewshot.report import collect, compare, terminal, write
from fewshot.report.plot import accuracies


class SweepReport(Callback):
    """Print the table of all runs, and write ``report.md``, ``report.csv`` and ``accuracies.png`` beside them.

    The sweep exits with status 1 where a run failed.
    """

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        folder = Path(config.hydra.sweep.dir)
        try:
            runs, failures = collect([folder])
            table = compare(runs, failures)
            Console().print(terminal(table))
            write(table, folder)
            accuracies(table, folder / "accuracies.png")
        except UserError as error:
            sys.exit(f"error: {error}")
        print(f"report: {folder / 'report.md'}")
        if failures:
            sys.exit(1)
