"""Hold the kinds of trials: one module for each door, one function for each kind.

A kind is a function ``(random, workshop) -> Trial`` with ``@kind`` in front. ``workshop`` is a folder with a small
finished run in ``workshop / "run"``, which no trial may change; damaged files are made in ``workshop / "try"``.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random


@dataclass(frozen=True)
class Trial:
    """Say what a trial does, and which ends are right.

    Attributes:
        what: a few words for the report, with everything that is needed to do the same by hand.
        command: is called in a process of its own; returns the exit status, or calls ``sys.exit``.
        must_refuse: exit status 0 would be an acceptance in silence. False where either end is right.
    """

    what: str
    command: Callable[[], int | None]
    must_refuse: bool = True


Kind = Callable[[Random, Path], Trial]
KINDS: dict[str, Kind] = {}


def kind(function: Kind) -> Kind:
    """Register a kind under the name of its module and function."""
    KINDS[f"{function.__module__.rpartition('.')[2]}.{function.__name__}"] = function
    return function
