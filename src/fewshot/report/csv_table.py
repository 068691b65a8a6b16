"""Write a table as CSV."""

import csv
import io
import math

from fewshot.files import csv_safe
from fewshot.open_set import SCORES
from fewshot.report.table import Row, Table


def csv_text(table: Table) -> str:
    """Return CSV text in fractions, seconds and MB.

    Columns of unknown classes are there if a row has such scores.
    """
    stream = io.StringIO()
    open_set = any(row.open_set for row in table.rows)
    records = [_record(row, open_set) for row in table.rows]
    writer = csv.DictWriter(stream, list(records[0]) if records else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _machine(value) for name, value in record.items()} for record in records)
    return stream.getvalue()


def _machine(value: object) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(csv_safe(str(value)))


def _record(row: Row, open_set: bool) -> dict[str, object]:
    """Return the columns of report.csv, None for unknown."""
    run = row.runs[0] if row.runs else None
    pair = row.paired
    by_seed = row.by_seed
    others = row.published[0] if row.published else None
    return {
        "label": row.label,
        "method": run and run.method,
        "data": run and run.data,
        "task": run and run.task,
        "seeds": " ".join(str(run.seed) for run in row.runs),
        "bn": run and run.bn,
        "episodes": run and len(run.accuracy),
        "accuracy": row.accuracy,
        "accuracy_ci95": row.half_width,
        "seed_sd": row.seed_sd,
        "published": others and others.value,
        "published_ci95": others and others.half_width,
        "published_source": others and others.source,
        "published_provenance": others and others.provenance,
        "reference": row.reference,
        "difference": pair and pair.difference,
        "difference_ci95": pair and pair.half_width,
        "p_value": pair and pair.p_value,
        "by_seed_difference": by_seed and by_seed.difference,
        "by_seed_ci95": by_seed and by_seed.half_width,
        "verdict": row.verdict,
        "bn_differs": pair and row.bn_pair is not None,
        **(_open_set_record(row) if open_set else {}),
        "ece": row.average("ece"),
        "seconds": row.average("seconds"),
        "episodes_per_second": row.average("episodes_per_second"),
        "peak_memory_mb": row.average("peak_memory_mb"),
        "parameters": run and run.parameters,
        "adapted_parameters": run and run.adapted_parameters,
        "note": row.note,
        "path": row.path,
    }


def _open_set_record(row: Row) -> dict[str, object]:
    run = row.runs[0] if row.runs else None
    record: dict[str, object] = {"unknown": run and run.unknown, "knownness": run and run.knownness}
    for name in SCORES:
        measure = row.open_set.get(name)
        pair = measure and measure.paired
        record |= {
            name: measure and measure.mean,
            f"{name}_ci95": measure and measure.half_width,
            f"{name}_difference": pair and pair.difference,
            f"{name}_difference_ci95": pair and pair.half_width,
            f"{name}_p_value": pair and pair.p_value,
        }
    return record
