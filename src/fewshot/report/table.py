"""Compare runs in one table.

Each setting has a row; other rows are compared with the first row.

A test episode's accuracy is averaged over the seeds of a row, so the interval over episodes says how much
the choice of test tasks matters, and the standard deviation between seeds how much the training does. A
difference is called one where both its intervals, over episodes and over seeds, leave out zero.
"""

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from fewshot.report.label import by_setting, labels, shortened
from fewshot.report.open_set import Measure, explain, measures
from fewshot.report.published import Published, published
from fewshot.report.read_runs import Failure, Run
from fewshot.statistics import Paired, holm, interval, paired

MARK = "†"  # on a difference between two BatchNorm protocols
OTHER_EPISODES = "other test episodes"
DRAWINGS = ("omniglot", "glyphs", "gaussians")  # data that resemble no photograph

Item = TypeVar("Item")
Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True, eq=False)
class Row:
    """Hold the runs of one setting, or a failure.

    A setting has one run for each seed.

    Attributes:
        label: unique in the table.
        path: folder of the first run.
        runs: one for each seed; empty for a failure, where only ``note`` says more.
        group: rows of one group have the same data, task and test episodes; failures have none.
        accuracy: mean over the test episodes and seeds, a fraction.
        half_width: half-width of its 95% t-interval over episodes, each averaged over seeds.
        seed_sd: standard deviation of the accuracy between seeds; nan for one seed.
        is_reference: other rows of the group are compared with this one.
        reference: label of the row that this row is compared with.
        paired: accuracy minus the reference's, over the same episodes, each averaged over the seeds that both
            have, or over all seeds; the p-value is corrected (Holm).
        compared: ``(ours, theirs)``, each ``(episodes,)``: the accuracies behind ``paired``.
        by_seed: the same over the seeds that both have; None where these are fewer than two.
        published: numbers of others for the same data, task and method.
        open_set: the scores of unknown images by name; empty without such images.
        bn_pair: BatchNorm protocols of this row and of its reference, where both have one and they differ.
        note: for the reader, for example why there is no difference.
        outcome: ``failed`` or ``unreadable`` in a row without runs.
    """

    label: str
    path: Path
    runs: tuple[Run, ...] = ()
    group: int | None = None
    accuracy: float = float("nan")
    half_width: float = float("nan")
    seed_sd: float = float("nan")
    is_reference: bool = False
    reference: str = ""
    paired: Paired | None = None
    compared: tuple[NDArray[np.float64], NDArray[np.float64]] | None = None
    by_seed: Paired | None = None
    published: tuple[Published, ...] = ()
    open_set: Mapping[str, Measure] = field(default_factory=dict)
    bn_pair: tuple[str, str] | None = None
    note: str = ""
    outcome: str = "finished"

    @property
    def task(self) -> str:
        """Return data set and task.

        An example is ``glyphs 5w1s``; a failure has neither.
        """
        return shortened(f"{self.runs[0].data} {self.runs[0].task}") if self.runs else ""

    def name(self, run: Run) -> str:
        """Return the label of ``run``.

        The label has the seed where the row has several runs.
        """
        return f"{self.label} seed={run.seed}" if len(self.runs) > 1 else self.label

    def average(self, name: str) -> float | None:
        """Average over the runs.

        Return None where a run lacks the value.
        """
        values = [getattr(run, name) for run in self.runs]
        return None if not values or None in values else sum(values) / len(values)

    @property
    def verdict(self) -> str:
        """Return the verdict on the difference.

        The verdict is ``better`` or ``worse`` where both intervals leave out zero, else ``open`` or ``one seed``; empty
        without a comparison.
        """
        if self.paired is None:
            return ""
        if self.by_seed is None:
            return "one seed"
        both = (self.paired, self.by_seed)
        if any(not abs(test.difference) > test.half_width for test in both):
            return "open"
        return "better" if self.paired.difference > 0 else "worse"


@dataclass(frozen=True, eq=False)
class Table:
    """Hold rows in groups, failures last.

    Groups are in the order of their first runs.
    """

    rows: tuple[Row, ...]
    footnotes: tuple[str, ...]

    @property
    def groups(self) -> list[list[Row]]:
        """Return the rows of finished runs, by group."""
        return list(_by([row for row in self.rows if row.runs], lambda row: row.group).values())


def compare(runs: Sequence[Run], failures: Sequence[Failure] = ()) -> Table:
    """Make a row of each setting.

    Runs over different test episodes are never paired.
    """
    settings = [seeds for same in by_setting(runs) for seeds in _by(same, _tested_on).values()]
    names = labels(settings, failures)
    groups = _by(
        list(zip(settings, names, strict=False)),  # the names of failures come after
        lambda member: (member[0][0].data, member[0][0].task, member[0][0].fingerprints),
    )
    rows: list[Row] = []
    tasks: set[tuple[str, str]] = set()
    for index, ((data, task, _), members) in enumerate(groups.items()):
        note = OTHER_EPISODES if (data, task) in tasks else ""
        tasks.add((data, task))
        rows += _group(members, index, note)
    rows += [
        Row(name, failure.path, note=failure.error, outcome=failure.outcome)
        for failure, name in zip(failures, names[len(settings) :], strict=True)
    ]
    return Table(tuple(rows), _footnotes(rows))


def _tested_on(run: Run) -> Hashable:
    return run.data, run.task, run.fingerprints, run.unknown_images, run.knownness


def _by(items: Iterable[Item], key: Callable[[Item], Key]) -> dict[Key, list[Item]]:
    """Group items by ``key`` in order of appearance."""
    groups: dict[Key, list[Item]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups


def _mean(seeds: Sequence[Run]) -> NDArray[np.float64]:
    """Return each episode's accuracy, averaged over seeds."""
    mean: NDArray[np.float64] = np.mean([run.accuracy for run in seeds], axis=0)
    return mean


def _group(members: Sequence[tuple[list[Run], str]], index: int, note: str) -> list[Row]:
    """Make the rows of one group.

    The settings have the same test episodes; the first setting is the reference.
    """
    reference, reference_label = members[0]
    shared = [_shared(seeds, reference) for seeds, _ in members[1:]]
    compared = [(_mean(ours), _mean(theirs)) for ours, theirs in shared]
    tests = [paired(ours, theirs) for ours, theirs in compared]
    corrected = holm([test.p_value for test in tests])
    scores = measures([seeds for seeds, _ in members], shared)
    rows = []
    for number, (seeds, label) in enumerate(members):
        test = tests[number - 1] if number else None
        accuracy, half_width = interval(_mean(seeds))
        means = [float(run.accuracy.mean()) for run in seeds]
        bn = (seeds[0].bn, reference[0].bn)
        rows.append(
            Row(
                label=label,
                path=seeds[0].path,
                runs=tuple(seeds),
                group=index,
                accuracy=accuracy,
                half_width=half_width,
                seed_sd=float(np.std(means, ddof=1)) if len(means) > 1 else float("nan"),
                is_reference=not number and len(members) > 1,
                reference=reference_label if number else "",
                paired=test and Paired(test.difference, test.half_width, corrected[number - 1]),
                compared=compared[number - 1] if number else None,
                by_seed=_between_seeds(seeds, reference) if number else None,
                published=published(seeds[0]),
                open_set=scores[number],
                bn_pair=bn if len(set(bn) - {"none"}) == 2 else None,
                note="; ".join(filter(None, (note, *map(_contradiction, seeds)))),
            )
        )
    return rows


def _shared(seeds: Sequence[Run], reference: Sequence[Run]) -> tuple[list[Run], list[Run]]:
    """Return the runs of shared seeds.

    Both lists have one order. Without a shared seed, return all runs.
    """
    ours, theirs = ({run.seed: run for run in runs} for runs in (seeds, reference))
    both = sorted(ours.keys() & theirs.keys())
    return ([ours[seed] for seed in both], [theirs[seed] for seed in both]) if both else (list(seeds), list(reference))


def _between_seeds(seeds: Sequence[Run], reference: Sequence[Run]) -> Paired | None:
    if len({run.seed for run in seeds} & {run.seed for run in reference}) < 2:
        return None
    ours, theirs = ([float(run.accuracy.mean()) for run in runs] for runs in _shared(seeds, reference))
    return paired(ours, theirs)


def _contradiction(run: Run) -> str:
    # Written by one run, the two files agree up to the rounding of a float32 mean.
    stated = run.stated_accuracy
    return f"result.json states an accuracy of {stated:.4f}" if abs(stated - run.accuracy.mean()) > 1e-4 else ""


def _footnotes(rows: Sequence[Row]) -> tuple[str, ...]:
    runs = [run for row in rows for run in row.runs]
    notes = []
    if runs:
        sizes = sorted({len(run.accuracy) for run in runs})
        episodes = f"{sizes[0]:,}" if len(sizes) == 1 else f"{sizes[0]:,} to {sizes[-1]:,}"
        text = f"Accuracy: mean in percent over {episodes} test episodes ± half of the 95% t-interval over episodes"
        if any(len(row.runs) > 1 for row in rows):
            text += (
                ", each averaged over the seeds of the row; seeds: how many, and the standard deviation between them."
            )
        else:
            text += "; the spread over training seeds is not in it."
        notes.append(text)
    if tests := [row for row in rows if row.paired]:
        text = (
            "Difference: mean of accuracy minus the reference's over the same test episodes, in percentage points, "
            "± half of its 95% t-interval; p: paired t-test"
        )
        text += ", corrected for several comparisons (Holm). " if len(tests) > 1 else ". "
        notes.append(text + "Reference: the first setting given with the same data, task and test episodes.")
    if any(row.by_seed for row in rows):
        notes.append(
            "By seed: the same difference with the t-interval over seeds. Verdict: better or worse only where both "
            "intervals leave out zero."
        )
    notes += explain([row.runs for row in rows])
    pairs = {row.bn_pair for row in rows if row.bn_pair}
    if pairs:
        named = ", ".join(f"{bn} against {reference}" for bn, reference in sorted(pairs))
        notes.append(f"{MARK} The two runs also differ in the BatchNorm protocol of the test: {named}.")
    seen = [run for run in runs if run.pretrained and run.data not in DRAWINGS]
    if seen:
        networks = ", ".join(sorted({run.pretrained for run in seen if run.pretrained}))
        data = ", ".join(sorted({run.data for run in seen}))
        notes.append(
            f"Pretrained: {networks} may have seen the test classes of {data} with their labels. "
            "Compare these rows with one another, not with networks trained from scratch."
        )
    devices = sorted({run.device for run in runs if run.device})
    if len(devices) > 1:
        notes.append(f"Time and memory are not comparable between devices; these runs used {', '.join(devices)}.")
    return tuple(notes)
