"""Move the task axis in ``vmap`` rules."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor


def tasks_first(info: Any, dims: Sequence[int | None], *tensors: Tensor) -> list[Tensor]:
    """Return tensors with the task axis first.

    Shared tensors are expanded, without a copy.

    Args:
        info: the first argument of the rule.
        dims: the position of the axis in each tensor, None for a shared tensor; further entries are ignored.
    """
    return [
        t.expand(info.batch_size, *t.shape) if d is None else t.movedim(d, 0)
        for t, d in zip(tensors, dims[: len(tensors)], strict=True)
    ]
