"""Rows of numbers that a user gives to a trained network."""

import numpy as np
import pytest
import torch

from fewshot.data.any_arrays import to_values
from fewshot.errors import UserError

ROWS = np.arange(12).reshape(4, 3)
FEATURES = (3, 1, 1)


@pytest.mark.parametrize(
    "rows",
    [ROWS, ROWS.astype("f2"), ROWS.astype(">f8"), ROWS.astype("u1"), ROWS[::-1][::-1], ROWS.tolist(), list(ROWS),
     torch.as_tensor(ROWS), torch.as_tensor(ROWS, dtype=torch.float64).requires_grad_(), list(torch.as_tensor(ROWS)),
     torch.as_tensor(ROWS, dtype=torch.bfloat16),
     ROWS[:, :, None, None]],
)  # fmt: skip
def test_rows_of_any_kind_are_one_tensor(rows):
    found = to_values(rows, FEATURES)
    assert found.dtype == torch.float32
    assert torch.equal(found, torch.arange(12.0).view(4, 3, 1, 1))


def test_one_row_alone_is_one_row():
    assert to_values(ROWS[0], FEATURES).shape == (1, 3, 1, 1)
    assert to_values(np.zeros((2, 5, 5)), (2, 5, 5)).shape == (1, 2, 5, 5)
    assert to_values(ROWS[:0], FEATURES).shape == (0, 3, 1, 1)


@pytest.mark.parametrize(
    ("rows", "message"),
    [(ROWS[:, :2], r"the rows are \(4, 2\), but the network takes \(M, 3\)"),
     (ROWS.T, r"the rows are \(3, 4\)"),
     (5, r"the rows are \(\)"),
     ([[1, 2, 3], [4, 5]], "several lengths"),
     ([torch.zeros(3), torch.zeros(2)], "several lengths"),
     ("a.png", r"was trained on arrays: give an array \(M, 3\) of numbers, not str"),
     (["a.png", "b.png"], "of numbers, not <U5"),
     ([None, None], "of numbers, not list"),
     (ROWS + 1j, "not complex128"),
     (torch.zeros(2, 3, dtype=torch.complex64), "not complex64"),
     (np.where(ROWS == 4, np.nan, ROWS), "not finite"),
     (ROWS * 1e300, "too large for float32")],
)  # fmt: skip
def test_what_is_no_row_of_the_network_is_refused(rows, message):
    with pytest.raises(UserError, match=message):
        to_values(rows, FEATURES)
