"""The axis of tasks that ``vmap`` hands to a function with a rule of its own."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor


def in_front(info: Any, dims: Sequence[int | None], *tensors: Tensor) -> list[Tensor]:
    """``tensors`` with the axis of tasks first; what tasks share is repeated, without a copy.

    Args:
        info: as ``vmap`` gives it to the rule.
        dims: where each tensor has the axis, None for nowhere; further entries are of other arguments.
    """
    return [
        t.expand(info.batch_size, *t.shape) if d is None else t.movedim(d, 0)
        for t, d in zip(tensors, dims[: len(tensors)], strict=True)
    ]
