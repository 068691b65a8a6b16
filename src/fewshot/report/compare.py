"""Runs as rows of one table, each compared with the first run on the same test episodes."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fewshot.metrics import Paired, interval, paired
from fewshot.report.collect import Failure, Run
from fewshot.report.label import labels

MARK = "†"  # on a difference between two BatchNorm protocols
OTHER_EPISODES = "other test episodes"


@dataclass(frozen=True, eq=False)
class Row:
    """One run.

    Attributes:
        label: what tells the run from the others in its table.
        path: folder of the run.
        run: what it left behind; None for a failure, where only ``note`` says more.
        group: rows of one group have the same data, task and test episodes; failures have none.
        accuracy: mean over the test episodes, a fraction.
        half_width: half-width of its 95% t-interval.
        is_reference: other rows of the group are compared with this one.
        reference: label of the row that this one is compared with.
        paired: accuracy minus the reference's, over the same episodes, as fractions.
        bn_pair: BatchNorm protocols of this row and of its reference, where both have one and they differ.
        note: what a reader must know, for example why there is no difference.
    """

    label: str
    path: Path
    run: Run | None = None
    group: int | None = None
    accuracy: float = float("nan")
    half_width: float = float("nan")
    is_reference: bool = False
    reference: str = ""
    paired: Paired | None = None
    bn_pair: tuple[str, str] | None = None
    note: str = ""


@dataclass(frozen=True, eq=False)
class Table:
    """Rows in groups, in the order in which the groups' first runs were given; failures last."""

    rows: tuple[Row, ...]
    footnotes: tuple[str, ...]


def compare(runs: Sequence[Run], failures: Sequence[Failure] = ()) -> Table:
    """One row a run. Runs over different test episodes are never paired."""
    names = labels([*runs, *failures])
    groups: dict[tuple[str, str, tuple[str, ...]], list[tuple[Run, str]]] = {}
    for run, name in zip(runs, names, strict=False):  # the names of failures come after
        groups.setdefault((run.data, run.task, run.fingerprints), []).append((run, name))
    rows: list[Row] = []
    seen: set[tuple[str, str]] = set()
    for index, ((data, task, _), members) in enumerate(groups.items()):
        note = OTHER_EPISODES if (data, task) in seen else ""
        seen.add((data, task))
        rows += _group(members, index, note)
    rows += [
        Row(name, failure.path, note=failure.error) for failure, name in zip(failures, names[len(runs) :], strict=True)
    ]
    return Table(tuple(rows), _footnotes(rows))


def _group(members: Sequence[tuple[Run, str]], index: int, note: str) -> list[Row]:
    """Rows of runs over the same test episodes; the first is the others' reference."""
    first, first_label = members[0]
    rows = []
    for run, label in members:
        accuracy, half_width = interval(run.accuracy)
        compared = run is not first
        rows.append(
            Row(
                label=label,
                path=run.path,
                run=run,
                group=index,
                accuracy=accuracy,
                half_width=half_width,
                is_reference=not compared and len(members) > 1,
                reference=first_label if compared else "",
                paired=paired(run.accuracy, first.accuracy) if compared else None,
                bn_pair=(run.bn, first.bn) if len({run.bn, first.bn} - {"none"}) == 2 else None,
                note="; ".join(filter(None, (note, _contradiction(run, accuracy)))),
            )
        )
    return rows


def _contradiction(run: Run, accuracy: float) -> str:
    # Written by one run, the two files agree up to the rounding of a float32 mean.
    stated = run.stated_accuracy
    return f"result.json states an accuracy of {stated:.4f}" if abs(stated - accuracy) > 1e-4 else ""


def _footnotes(rows: Sequence[Row]) -> tuple[str, ...]:
    runs = [row.run for row in rows if row.run]
    notes = []
    if runs:
        sizes = sorted({len(run.accuracy) for run in runs})
        episodes = f"{sizes[0]:,}" if len(sizes) == 1 else f"{sizes[0]:,} to {sizes[-1]:,}"
        notes.append(
            f"Accuracy: mean in percent over {episodes} test episodes ± half of the 95% t-interval over episodes; "
            "the spread over training seeds is not in it."
        )
    if any(row.paired for row in rows):
        notes.append(
            "Difference: mean of accuracy minus the reference's over the same test episodes, in percentage points, "
            "± half of its 95% t-interval; p: paired t-test, not corrected for several comparisons. "
            "Reference: the first run given with the same data, task and test episodes."
        )
    pairs = {row.bn_pair for row in rows if row.bn_pair}
    if pairs:
        named = ", ".join(f"{bn} against {reference}" for bn, reference in sorted(pairs))
        notes.append(f"{MARK} The two runs also differ in the BatchNorm protocol of the test: {named}.")
    devices = sorted({run.device for run in runs if run.device})
    if len(devices) > 1:
        notes.append(f"Time and memory are not comparable between devices; these runs used {', '.join(devices)}.")
    return tuple(notes)
