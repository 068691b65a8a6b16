"""Change the learning rate over a run's budget.

The budget is in steps or in time. A schedule maps ``(step, spent)`` to a factor of the learning rate; ``spent`` in
[0, 1] is the part of the budget that is gone. A budget in time needs this form: the number of steps is not known
beforehand.
"""

import math
from collections.abc import Callable

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Timer
from torch.optim import Optimizer

Schedule = Callable[[int, float], float]


def constant(step: int, spent: float) -> float:
    """Return 1 at every step."""
    return 1.0


def cosine(step: int, spent: float, start: float = 0.0) -> float:
    """Decay the factor along half a cosine.

    The factor falls from 1 to 0, beginning at the part ``start`` of the budget. Source: Loshchilov and Hutter 2017,
    without restarts.
    """
    return 0.5 * (1 + math.cos(math.pi * min(1.0, max(0.0, spent - start) / (1 - start))))


def warm_cosine(step: int, spent: float, warm: float = 0.05) -> float:
    """Raise the factor, then decay the factor as ``cosine``.

    The factor rises from 0 to 1 over the part ``warm`` of the budget. Source: Goyal et al. 2017.
    """
    return spent / warm if spent < warm else cosine(step, spent, warm)


def halving(step: int, spent: float, every: int = 2000) -> float:
    """Halve the factor after every ``every`` steps.

    Source: Snell et al. 2017.
    """
    return 0.5 ** (step // every)


def budget_spent(trainer: pl.Trainer) -> float:
    """Return the spent part of the budget.

    The part is a number from 0 to 1. Steps count where they are limited, so that a slower machine trains the same run;
    else time counts.
    """
    if trainer.max_steps > 0:
        return trainer.global_step / trainer.max_steps
    for timer in _timers(trainer):
        if (left := timer.time_remaining()) is not None:
            elapsed = timer.time_elapsed()
            spent = min(1.0, elapsed / (elapsed + max(left, 1e-9)))
            return trainer.strategy.broadcast(spent)  # several processes follow one clock
    return 0.0


def time_left(trainer: pl.Trainer, seconds_per_step: float | None) -> float | None:
    """Return the seconds until the budget is spent.

    The result is None if the time is unknown or unlimited.
    """
    limits = [left for timer in _timers(trainer) if (left := timer.time_remaining()) is not None]
    if trainer.max_steps > 0 and seconds_per_step is not None:
        limits.append((trainer.max_steps - trainer.global_step) * seconds_per_step)
    return min(limits, default=None)


def _timers(trainer: pl.Trainer) -> list[Timer]:
    callbacks: list[pl.Callback] = trainer.callbacks  # type: ignore[attr-defined]
    return [callback for callback in callbacks if isinstance(callback, Timer)]


def with_initial_rate(optimizer: Optimizer) -> Optimizer:
    """Store each group's learning rate for ``scale_rate``."""
    for group in optimizer.param_groups:
        group.setdefault("initial_lr", group["lr"])
    return optimizer


def scale_rate(optimizer: Optimizer, factor: float) -> None:
    """Scale the first learning rate of each group.

    The rate of a group becomes ``factor`` times its first rate.
    """
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * factor
