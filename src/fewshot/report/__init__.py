"""Compare runs in tables and figures."""

from fewshot.report.formats import csv_text, markdown, terminal, write
from fewshot.report.read_runs import Failure, Run, collect
from fewshot.report.table import Row, Table, compare

__all__ = ["Failure", "Row", "Run", "Table", "collect", "compare", "csv_text", "markdown", "terminal", "write"]
