"""Learning-rate schedules over the budget of a run, in steps or in time.

A schedule maps ``(step, spent)`` to a factor of the learning rate; ``spent`` in [0, 1] is the part of
the budget that is gone. The budget in time needs this form: the number of steps is not known beforehand.
"""

import math
from collections.abc import Callable

Schedule = Callable[[int, float], float]


def constant(step: int, spent: float) -> float:
    """No change."""
    return 1.0


def cosine(step: int, spent: float, start: float = 0.0) -> float:
    """From 1 to 0 along half a cosine (Loshchilov and Hutter 2017), beginning at ``start`` of the budget."""
    return 0.5 * (1 + math.cos(math.pi * min(1.0, max(0.0, spent - start) / (1 - start))))


def halving(step: int, spent: float, every: int = 2000) -> float:
    """Half as much after each ``every`` steps (Snell et al. 2017)."""
    return 0.5 ** (step // every)
