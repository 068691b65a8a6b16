"""Compare runs: ``python -m fewshot.report PATH... [--output DIR]``."""

import argparse
import sys
from pathlib import Path

from rich.console import Console

from fewshot.errors import UserError
from fewshot.files import printable
from fewshot.report.build import report
from fewshot.report.formats import terminal


def main() -> int:
    """Print the table and, with ``--output``, write the report."""
    parser = argparse.ArgumentParser(prog="python -m fewshot.report", description="Compare runs in one table.")
    parser.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="a run's folder, or any folder above runs")
    parser.add_argument(
        "--output",
        type=Path,
        metavar="DIR",
        help="also write here: report.html, one page with all figures; report.md, report.csv and report.tex; "
        "accuracies.png, and learning curves, episode by episode and calibration in figures/",
    )
    arguments = parser.parse_args()
    try:
        table = report(arguments.paths, arguments.output)
    except UserError as error:
        print(f"error: {printable(str(error))}", file=sys.stderr)
        return 1
    Console(highlight=False).print(terminal(table))
    return 0


if __name__ == "__main__":
    sys.exit(main())
