"""Compare runs in tables and figures."""

from fewshot.report.csv_table import csv_text
from fewshot.report.formats import markdown, terminal, write
from fewshot.report.read_runs import Failure, Run, collect
from fewshot.report.table import Row, Table, compare

__all__ = ["Failure", "Row", "Run", "Table", "collect", "compare", "csv_text", "markdown", "terminal", "write"]
