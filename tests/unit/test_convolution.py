"""The convolution of per-task weights against torch's own and against finite differences."""

import pytest
import torch
from torch import nn

from fewshot.networks import convolution
from fewshot.networks.convolution import Conv2d

pytestmark = pytest.mark.usefixtures("float64")
# channels, stride, padding, kernel; few channels and many take different ways, a stride may pass the kernel, and a
# patch may hold less than there are filters.
FILTERS = 5
CASES = [
    (1, 2, 1, 3),
    (1, 1, 1, (2, 1)),
    (3, 1, 1, 3),
    (9, 2, 1, 3),
    (9, 3, 0, 2),
    (9, 2, 0, 1),
    (8, (2, 1), (1, 2), (3, 1)),
]
cases = pytest.mark.parametrize(("channels", "stride", "padding", "kernel"), CASES)


def pair(channels, stride, padding, kernel) -> tuple[Conv2d, nn.Conv2d]:
    torch.manual_seed(0)
    ours = Conv2d(channels, FILTERS, kernel, stride=stride, padding=padding)
    theirs = nn.Conv2d(channels, FILTERS, kernel, stride=stride, padding=padding)
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


@cases
def test_equals_torch_in_value_and_gradients(channels, stride, padding, kernel):
    ours, theirs = pair(channels, stride, padding, kernel)
    x = torch.randn(3, channels, 6, 7, requires_grad=True)
    for a, b in zip(derivatives(ours, x), derivatives(theirs, x), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


def derivatives(layer: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    """The output, its gradients, and the gradients of a function of those."""
    y = layer(x)
    wanted = (x, *layer.parameters())
    first = torch.autograd.grad(y.tanh().sum(), wanted, create_graph=True)
    second = torch.autograd.grad(sum(g.square().sum() for g in first), wanted)
    return [y, *first, *second]


@pytest.mark.parametrize("many_rows", [1000, 1])
@cases
def test_weights_of_each_task_equal_a_loop_over_tasks(channels, stride, padding, kernel, many_rows, monkeypatch):
    monkeypatch.setattr(convolution, "_MANY_ROWS", many_rows)
    ours, _ = pair(channels, stride, padding, kernel)
    x = torch.randn(2, 3, channels, 6, 7, requires_grad=True)
    w = torch.randn(2, *ours.weight.shape, requires_grad=True)
    b = torch.randn(2, FILTERS, requires_grad=True)

    def one(x, w, b):
        return torch.func.functional_call(ours, {"weight": w, "bias": b}, (x,))

    def curvature(y):
        first = torch.autograd.grad(y.tanh().sum(), (x, w, b), create_graph=True)
        return [y, *first, *torch.autograd.grad(sum(g.square().sum() for g in first), (x, w, b))]

    mapped = curvature(torch.func.vmap(one)(x, w, b))
    looped = curvature(torch.stack([one(*task) for task in zip(x, w, b, strict=True)]))
    for a, b in zip(mapped, looped, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("shared", ["images", "weights"])
@cases
def test_what_tasks_share_is_broadcast(channels, stride, padding, kernel, shared):
    ours, _ = pair(channels, stride, padding, kernel)
    x, w = torch.randn(2, 3, channels, 6, 6), torch.randn(2, *ours.weight.shape)
    dims = (None, 0) if shared == "images" else (0, None)
    given = (x[0], w) if shared == "images" else (x, w[0])

    def one(x, w):
        return torch.func.functional_call(ours, {"weight": w}, (x,))

    mapped = torch.func.vmap(one, dims)(*given)
    for task in range(2):
        torch.testing.assert_close(
            mapped[task], one(*(g if d is None else g[task] for g, d in zip(given, dims, strict=True)))
        )


@pytest.mark.parametrize("channels", [2, 3])
def test_second_derivatives_equal_finite_differences(channels):
    ours, _ = pair(channels, 2, 1, 3)
    x = torch.randn(1, channels, 4, 4, requires_grad=True)

    def function(x, w):
        return torch.func.functional_call(ours, {"weight": w}, (x,))

    assert torch.autograd.gradcheck(function, (x, ours.weight))
    assert torch.autograd.gradgradcheck(function, (x, ours.weight))


@pytest.mark.parametrize(
    "settings", [{"dilation": 2}, {"groups": 3}, {"padding_mode": "circular"}, {"padding": "same"}]
)
def test_what_it_does_not_know_is_refused(settings):
    with pytest.raises(ValueError, match="takes neither"):
        Conv2d(3, 3, 3, **settings)
