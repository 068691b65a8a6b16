"""Compare how well rows of the table tell unknown images.

The scores of a test episode are averaged over the seeds of a row, as accuracies are.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fewshot.open_set import SCORES
from fewshot.report.read_runs import Run
from fewshot.statistics import Paired, holm, interval, paired

Seeds = Sequence[Run]


@dataclass(frozen=True)
class Measure:
    """Hold the mean of one score of a row.

    Attributes:
        mean: over test episodes and seeds, a fraction.
        half_width: half-width of its 95% t-interval over episodes.
        paired: the score minus the reference's over the same episodes; the p-value is corrected (Holm). None for the
            reference, and where the reference has other unknown images or none.
    """

    mean: float
    half_width: float
    paired: Paired | None = None


def measures(rows: Sequence[Seeds], shared: Sequence[tuple[Seeds, Seeds]]) -> list[dict[str, Measure]]:
    """Return the scores of each row of a group, by name.

    Args:
        rows: the runs of each row; the first row is the reference.
        shared: for all rows but the first, the runs that are compared: of the row, and of the reference.
    """
    found: list[dict[str, Measure]] = [{} for _ in rows]
    for name in SCORES:
        tests = {
            place: paired(_mean(ours, name), _mean(theirs, name))
            for place, (ours, theirs) in enumerate(shared, start=1)
            if ours[0].unknown_images is not None and ours[0].unknown_images == theirs[0].unknown_images
        }
        corrected = dict(zip(tests, holm([test.p_value for test in tests.values()]), strict=True))
        for place, seeds in enumerate(rows):
            if seeds[0].unknown_images is None:
                continue
            test = tests.get(place)
            against = test and Paired(test.difference, test.half_width, corrected[place])
            found[place][name] = Measure(*interval(_mean(seeds, name)), against)
    return found


def _mean(seeds: Seeds, name: str) -> NDArray[np.float64]:
    """Return each episode's score, averaged over seeds."""
    mean: NDArray[np.float64] = np.mean([run.open_set[name] for run in seeds], axis=0)
    return mean


def explain(rows: Sequence[Seeds]) -> list[str]:
    """Explain the scores of rows, which may have no runs."""
    told = [seeds for seeds in rows if seeds and seeds[0].unknown_images is not None]
    if not told:
        return []
    unknown = sorted({run.unknown for seeds in told for run in seeds})
    classes = f"{unknown[0]}" if len(unknown) == 1 else f"{unknown[0]} to {unknown[-1]}"
    by: dict[str, list[str]] = {}
    for seeds in told:
        methods = by.setdefault(seeds[0].knownness or "", [])
        methods += [seeds[0].label] if seeds[0].label not in methods else []
    scores = next(iter(by)) if len(by) == 1 else "; ".join(f"{score} of {', '.join(who)}" for score, who in by.items())
    return [
        f"AUROC and FPR95: of images of {classes} further classes a task, which are to be told from the query images "
        "by their knownness. AUROC is the share of pairs in which the query image has the higher one; FPR95, where "
        "less is better, the share of the unknown images that pass for known at a threshold that 95% of the query "
        "images pass. In percent, by episode and with intervals as accuracies. Differences (diff.) only where the "
        f"reference has the same unknown images. Knownness: {scores}."
    ]
