"""Tables and figures from what runs leave on disk."""

from fewshot.report.collect import Failure, Run, collect
from fewshot.report.compare import Row, Table, compare
from fewshot.report.render import csv_text, markdown, terminal, write

__all__ = ["Failure", "Row", "Run", "Table", "collect", "compare", "csv_text", "markdown", "terminal", "write"]
