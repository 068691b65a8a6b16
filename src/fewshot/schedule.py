"""Learning-rate schedules over the budget of a run, in steps or in time.

A schedule maps ``(step, spent)`` to a factor of the learning rate; ``spent`` in [0, 1] is the part of
the budget that is gone. The budget in time needs this form: the number of steps is not known beforehand.
"""

import math
from collections.abc import Callable

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Timer
from torch.optim import Optimizer

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


def budget_spent(trainer: pl.Trainer) -> float:
    """The part of a trainer's budget that is gone: of its steps, or of its time where steps are not limited.

    Steps come first, so that a run with a budget in steps is the same run on a slower machine.
    """
    if trainer.max_steps > 0:
        return trainer.global_step / trainer.max_steps
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, Timer) and (left := callback.time_remaining()) is not None:
            elapsed = callback.time_elapsed()
            spent = min(1.0, elapsed / (elapsed + max(left, 1e-9)))
            return trainer.strategy.broadcast(spent)  # several processes follow one clock
    return 0.0


def with_initial_rate(optimizer: Optimizer) -> Optimizer:
    """Remember each group's learning rate, which ``scale_rate`` scales."""
    for group in optimizer.param_groups:
        group.setdefault("initial_lr", group["lr"])
    return optimizer


def scale_rate(optimizer: Optimizer, factor: float) -> None:
    """Set each group's learning rate to ``factor`` times its first one."""
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * factor
