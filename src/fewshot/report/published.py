"""Look up published accuracies in ``published.yaml``."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import yaml

from fewshot.report.read_runs import Run

MARK = "‡"  # on a number that is recalled

Provenance = Literal["paper", "secondary", "recalled"]
_WORDS = {"paper": "", "secondary": "as a secondary source quotes it", "recalled": f"recalled, not seen {MARK}"}


@dataclass(frozen=True)
class Published:
    """Hold one number of the literature.

    Attributes:
        name: the method in its authors' words.
        method: the recipe here that stands for it, if there is one.
        value: accuracy, a fraction.
        half_width: of its published interval, a fraction; nan where none is given.
        source: whose number it is, with the year.
        provenance: ``paper`` (or its authors' code), ``secondary`` source, or ``recalled`` and not seen.
        label_fraction: labelled part of the training images.
        typed: an override that a run needs to be this experiment.
    """

    data: str
    task: str
    method: str
    name: str
    value: float
    half_width: float
    source: str
    provenance: Provenance
    label_fraction: float = 1.0
    typed: str = ""


@cache
def numbers() -> tuple[Published, ...]:
    """Read ``published.yaml``, in the order of the file."""
    entries = yaml.safe_load(Path(__file__).with_name("published.yaml").read_text(encoding="utf-8"))
    return tuple(
        Published(task=task, value=value / 100, half_width=spread[0] / 100 if spread else float("nan"), **entry)
        for entry in entries
        for task, (value, *spread) in entry.pop("values").items()
    )


def published(run: Run) -> tuple[Published, ...]:
    """Return the published numbers for a run.

    Data, task, method and labels must match, and the network must be trained from scratch.
    """
    special = {number.typed for number in numbers()} & set(run.overrides)
    return tuple(
        number
        for number in numbers()
        if (number.data, number.task, number.method) == (run.data, run.task, run.method)
        and number.label_fraction == run.label_fraction
        and (number.typed in special if special else not number.typed)
        and not (run.distractors or run.pretrained)
    )


def footnotes(shown: Sequence[Published]) -> tuple[str, ...]:
    """Return the sources and doubts of published numbers."""
    if not shown:
        return ()
    sources: dict[str, list[str]] = {}
    for number in shown:
        words = _WORDS[number.provenance]
        names = sources.setdefault(number.source + f" ({words})" * bool(words), [])
        names += [number.name] if number.name not in names else []
    named = "; ".join(f"{source}: {', '.join(names)}" for source, names in sources.items())
    notes = [
        "Published: in percent, ± as the source gives it. Published protocols differ from this one and from each other "
        f"(classes, networks, budgets, test tasks), so these numbers are for orientation. Sources: {named}."
    ]
    if any(number.provenance == "recalled" for number in shown):
        notes.append(f"{MARK} Recalled, not seen in a source: check it before citing.")
    return tuple(notes)
