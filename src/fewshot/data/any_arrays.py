"""Convert user arrays to the rows that a network was trained on."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from fewshot.errors import UserError

Shape = tuple[int, int, int]


def with_space(rows: Tensor, shape: Shape) -> Tensor:
    """Return rows as a network takes these.

    Features ``(M, D)`` become ``(M, D, 1, 1)``, one row alone ``(1, C, S, S)``; any other tensor is unchanged.
    """
    if tuple(rows.shape) == shape:
        return rows[None]
    if shape[1:] == (1, 1) and tuple(rows.shape[-1:]) == shape[:1] and rows.ndim in (1, 2):
        return rows.reshape(-1, *shape)
    return rows


def to_values(rows: Any, shape: Shape) -> Tensor:
    """Convert numbers that are used without scaling.

    Args:
        rows: an array, a tensor, a table or lists of numbers, ``(M, C, S, S)``, or ``(M, D)`` for features; or one row.
        shape: (C, S, S), or (D, 1, 1) for features.

    Returns:
        ``(M, C, S, S)`` float32.

    Raises:
        UserError: the rows are no numbers, have another shape, or are not finite.
    """
    channels, size, _ = shape
    wanted = f"(M, {channels})" if size == 1 else f"(M, {channels}, {size}, {size})"
    try:
        if isinstance(rows, list | tuple) and any(isinstance(row, Tensor) for row in rows):
            rows = torch.stack([torch.as_tensor(row) for row in rows])
        if isinstance(rows, Tensor) and rows.dtype == torch.bfloat16:  # numpy has no such numbers
            rows = rows.float()
        values = rows.numpy(force=True) if isinstance(rows, Tensor) else np.asarray(rows)
    except (ValueError, TypeError, RuntimeError) as error:
        raise UserError(f"the rows have several lengths, or are no numbers: give an array {wanted}") from error
    if values.dtype.kind not in "biuf":
        kind = type(rows).__name__ if values.ndim == 0 or values.dtype == object else str(values.dtype)
        raise UserError(f"this network was trained on arrays: give an array {wanted} of numbers, not {kind}")
    with np.errstate(over="ignore"):
        tensor = with_space(torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32)), shape)
    if tuple(tensor.shape[1:]) != shape:
        raise UserError(f"the rows are {values.shape}, but the network takes {wanted}")
    if not bool(tensor.isfinite().all()):
        raise UserError("the rows hold a number that is not finite, or is too large for float32")
    return tensor
