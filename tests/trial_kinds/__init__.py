"""Hold the kinds of trials: one module for each door, one function for each kind.

A kind is a function ``(random, workshop) -> Trial`` with ``@kind`` in front. ``workshop`` is a folder with a small
finished run in ``workshop / "run"``, which no trial may change; damaged files are made in ``workshop / "try"``.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random

REFUSED = ("refused",)
ACCEPTED = ("accepted",)
EITHER = ("refused", "accepted")
WRONG = 99  # exit status of a command whose result is wrong, after printing what is


@dataclass(frozen=True)
class Trial:
    """Say what a trial does, and which ends are right.

    Attributes:
        what: a few words for the report, with everything that is needed to do the same by hand.
        command: is called in a process of its own; returns the exit status, or calls ``sys.exit``.
        right: the outcomes that are right: ``REFUSED`` (the error is one line), ``ACCEPTED``, or either (``EITHER``).
        says: patterns that the printed text must contain.
        quiet: where nothing but an error may be printed.
    """

    what: str
    command: Callable[[], int | None]
    right: tuple[str, ...] = REFUSED
    says: tuple[str, ...] = ()
    quiet: bool = False


Kind = Callable[[Random, Path], Trial]
KINDS: dict[str, Kind] = {}


def kind(function: Kind) -> Kind:
    """Register a kind under the names of its door, a module, and its function."""
    KINDS[f"{function.__module__.rpartition('.')[2]}.{function.__name__}"] = function
    return function


def damage(random: Random, content: bytes) -> tuple[str, bytes]:
    """Cut, overwrite or fill up a file; return in which way, and the new content."""
    changed = bytearray(content)
    way = random.choice(("cut", "flip", "zeros", "noise"))
    if way == "cut":
        del changed[random.randrange(len(changed)) :]
    elif way == "flip":
        for _ in range(random.randint(1, 50)):
            changed[random.randrange(len(changed))] ^= 1 << random.randrange(8)
    else:
        start = random.randrange(len(changed))
        length = min(random.randint(1, 2000), len(changed) - start)
        changed[start : start + length] = bytes(length) if way == "zeros" else random.randbytes(length)
    return way, bytes(changed)
