"""Compare runs: ``python -m fewshot.report PATH... [--output DIR]``."""

import argparse
import sys
from pathlib import Path

from rich.console import Console

from fewshot.errors import UserError
from fewshot.report import collect, compare, terminal, write
from fewshot.report.plot import accuracies


def main() -> int:
    """Print the table; with ``--output`` also write report.md, report.csv and accuracies.png."""
    parser = argparse.ArgumentParser(prog="python -m fewshot.report", description="Compare runs in one table.")
    parser.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="a run's folder, or any folder above runs")
    parser.add_argument(
        "--output", type=Path, metavar="DIR", help="also write report.md, report.csv, accuracies.png here"
    )
    arguments = parser.parse_args()
    try:
        runs, failures = collect(arguments.paths)
        table = compare(runs, failures)
        if arguments.output:
            write(table, arguments.output)
            ways = {run.ways for run in runs}
            accuracies(table, arguments.output / "accuracies.png", chance=1 / ways.pop() if len(ways) == 1 else None)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    Console(highlight=False).print(terminal(table))
    return 0


if __name__ == "__main__":
    sys.exit(main())
