"""The batch norm with derivatives of its own against torch's and against finite differences."""

import pytest
import torch
import torch.nn.functional as F

from fewshot.networks import batch_norm_function
from fewshot.networks.batch_norm_function import batch_normalise

pytestmark = pytest.mark.usefixtures("float64")
EPS = 1e-3
shapes = pytest.mark.parametrize("shape", [(5, 3), (3, 3, 2, 2)])


def inputs(*shape: int) -> tuple[torch.Tensor, ...]:
    torch.manual_seed(0)
    *tasks, _, channels = shape[: len(shape) if len(shape) < 4 else -2]
    return tuple(torch.randn(size, requires_grad=True) for size in (shape, (*tasks, channels), (*tasks, channels)))


def ours(x, w, b):
    return batch_normalise(x, w, b, EPS)[0]


@shapes
def test_equals_torch(shape):
    x, w, b = inputs(*shape)
    torch.testing.assert_close(ours(x, w, b), F.batch_norm(x, None, None, w, b, training=True, eps=EPS))


@shapes
def test_statistics_are_those_of_the_batch(shape):
    x, w, b = inputs(*shape)
    _, mean, var = batch_normalise(x, w, b, EPS)
    rows = x.movedim(1, -1).reshape(-1, 3)
    torch.testing.assert_close(mean, rows.mean(0).detach())
    torch.testing.assert_close(var, rows.var(0, correction=0).detach())
    assert not mean.requires_grad
    assert not var.requires_grad


@shapes
def test_both_derivatives_equal_finite_differences(shape):
    assert torch.autograd.gradcheck(ours, inputs(*shape))
    assert torch.autograd.gradgradcheck(ours, inputs(*shape))


@pytest.mark.parametrize("many_numbers", [0, 1000])
@pytest.mark.parametrize("shape", [(2, 4, 3), (2, 3, 3, 2, 2)])
def test_each_task_has_statistics_of_its_own(shape, many_numbers, monkeypatch):
    """By passes over all tasks, and task by task."""
    monkeypatch.setattr(batch_norm_function, "_MANY_NUMBERS", many_numbers)
    mapped = torch.func.vmap(ours)
    given = inputs(*shape)
    torch.testing.assert_close(mapped(*given), torch.stack([ours(*task) for task in zip(*given, strict=True)]))
    assert torch.autograd.gradcheck(mapped, given)
    assert torch.autograd.gradgradcheck(mapped, given)


def test_a_mean_far_from_zero_costs_no_more_than_the_input_has_lost():
    """In float32; the sums are of x, and not of what is left when its mean is taken away."""
    torch.manual_seed(0)
    x, g = (torch.randn(4, 64, 3, dtype=torch.float64) for _ in range(2))
    w, b = (torch.rand(4, 3, dtype=torch.float64) + 0.5 for _ in range(2))

    def gradients(x, dtype):
        leaves = [t.to(dtype).requires_grad_() for t in (x, w, b)]
        return torch.autograd.grad((torch.func.vmap(ours)(*leaves) * g.to(dtype)).sum(), leaves)

    far = (x + 100).float()
    for ours_, exact in zip(gradients(far, torch.float32), gradients(far.double(), torch.float64), strict=True):
        torch.testing.assert_close(ours_.double(), exact, rtol=1e-3, atol=1e-3)


def test_a_scale_of_zero_has_finite_derivatives():
    x, w, b = inputs(4, 3)
    w = torch.zeros_like(w, requires_grad=True)
    assert torch.autograd.gradgradcheck(ours, (x, w, b))
