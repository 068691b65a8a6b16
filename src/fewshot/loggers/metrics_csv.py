"""Write ``metrics.csv``."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning_fabric.loggers.logger import rank_zero_experiment
from pytorch_lightning.loggers import CSVLogger
from pytorch_lightning.loggers.csv_logs import ExperimentWriter
from pytorch_lightning.utilities import rank_zero_only

from fewshot.files import write_bytes


class CSV(CSVLogger):
    """Write ``metrics.csv``, also in a resumed run.

    A new run begins a new file; a resumed run continues its file.
    """

    _before = 0

    @rank_zero_only
    def continue_from(self, step: int) -> None:
        self._before = step

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        if self._experiment is None:
            file = Path(self.log_dir) / ExperimentWriter.NAME_METRICS_FILE
            columns = _keep_rows(file, self._before)
            self._experiment = _Writer(self.log_dir)
            self._experiment.metrics_keys = columns
        return self._experiment


class _Writer(ExperimentWriter):
    """Write rows, and add columns without loss.

    Lightning's own writer would remove the file.
    """

    def _check_log_dir_exists(self) -> None:
        pass  # would remove the file

    def _rewrite_with_new_header(self, fieldnames: list[str]) -> None:
        file = Path(self.metrics_file_path)
        with file.open(newline="") as stream:
            rows = list(csv.DictReader(stream))
        _write_rows(file, fieldnames, rows)


def _keep_rows(file: Path, before: int) -> list[str]:
    """Keep the rows of the first steps.

    The kept steps are 0 to ``before - 1``. Return the columns of the rows.
    """
    rows: list[dict[str, str]] = []
    if before and file.is_file():
        with file.open(newline="") as stream:
            # A row that was cut off in the middle lacks columns.
            rows = [row for row in csv.DictReader(stream) if None not in row.values() and int(row["step"]) < before]
    columns = [name for name in rows[0] if any(row[name] for row in rows)] if rows else []
    if rows:
        _write_rows(file, columns, [{name: row[name] for name in columns} for row in rows])
    else:
        file.unlink(missing_ok=True)
    return columns


def _write_rows(file: Path, columns: Sequence[str], rows: Iterable[Mapping[str, str]]) -> None:
    stream = io.StringIO()
    writer = csv.DictWriter(stream, columns)
    writer.writeheader()
    writer.writerows(rows)
    write_bytes(file, stream.getvalue().encode())
