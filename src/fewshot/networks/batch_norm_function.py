"""Normalise by batch statistics under second-order gradients.

The derivatives are right and fast, also under ``vmap``.

torch's own second derivative of it is a long chain of passes over memory, and under ``vmap`` its scale and
shift give wrong ones (torch 2.13). Here both derivatives are written out, scale and shift included:

    z = w y + b,  y = (x - mean) r,  r = 1 / sqrt(var + eps)
    dx = w r (g - mean(g) - y mean(g y)), dw = sum(g y), db = sum(g)

All of them are weighted sums of images, with a weight for each channel: that is what memory is passed over for.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from fewshot.networks.task_axis import tasks_first

Tensors = tuple[Tensor, ...]
Grads = tuple[Tensor | None, ...]
# Measured on a CPU: what one task holds when the library's kernel, task by task, beats passes over all of them.
_MANY_NUMBERS = 500_000


def batch_normalise(x: Tensor, w: Tensor, b: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """Normalise images, then scale and shift.

    The statistics are the images' own.

    Args:
        x: images ``(M, C, ...)``.
        w, b: scale and shift ``(C,)``.
        eps: added to the variance.

    Returns:
        The normalised images, and without gradients the mean and the (biased) variance ``(C,)``.
    """
    z, mean, r = _Normalise.apply(x.to(w.dtype), w, b, eps, False)  # statistics in full precision
    return z, mean.detach(), r.detach() ** -2 - eps


class _Axes:
    """Locate samples and channels in a tensor.

    The tensor is ``(M, C, ...)``, or ``(T, M, C, ...)`` with tasks.
    """

    def __init__(self, x: Tensor, tasks: bool) -> None:
        channel = 1 + tasks
        self.over = (channel - 1, *range(channel + 1, x.ndim))
        self.shape = (*x.shape[:tasks], 1, x.shape[channel], *(1 for _ in x.shape[channel + 1 :]))
        self.count = x.numel() // (x.shape[channel] * (len(x) if tasks else 1))

    def sum(self, x: Tensor) -> Tensor:
        """Sum over all axes but channels and tasks."""
        return x.sum(self.over)

    def combine(self, constant: Tensor, *terms: tuple[Tensor, Tensor]) -> Tensor:
        """Return ``constant + sum(x * weight)``.

        The sum is over images and weights. Constant and weights are ``(C,)``, or ``(T, C)`` with tasks.
        """
        result = constant.reshape(self.shape)
        for x, weight in terms:
            result = torch.addcmul(result, x, weight.reshape(self.shape))
        return result


def _task_by_task(x: Tensor) -> bool:
    return not x.is_cuda and x[0].numel() >= _MANY_NUMBERS


class _Normalise(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, w: Tensor, b: Tensor, eps: float, tasks: bool) -> Tensors:
        if not tasks:
            return torch.native_batch_norm(x, w, b, None, None, True, 0.0, eps)
        if _task_by_task(x):
            z = torch.empty_like(x)
            mean = torch.empty_like(w)
            r = torch.empty_like(w)
            for task, out in enumerate(zip(z, mean, r, strict=True)):
                torch.native_batch_norm(x[task], w[task], b[task], None, None, True, 0.0, eps, out=out)
            return z, mean, r
        axes = _Axes(x, tasks)
        mean = x.mean(axes.over)
        r = torch.rsqrt((x - mean.reshape(axes.shape)).square_().mean(axes.over) + eps)
        return axes.combine(b - w * r * mean, (x, w * r)), mean, r

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Any, ...]) -> None:
        (x, w, _, ctx.eps, ctx.tasks), (_, mean, r) = inputs, output
        ctx.mark_non_differentiable(mean, r)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, w, mean, r)

    @staticmethod
    def backward(ctx: Any, g: Tensor | None, *_: None) -> Grads:
        if g is None:
            return (None,) * 5
        dx, dw, db = _Gradient.apply(g, *ctx.saved_tensors, ctx.eps, ctx.tasks)
        return dx, dw, db, None, None

    @staticmethod
    def vmap(
        info: Any, dims: tuple[int | None, ...], x: Tensor, w: Tensor, b: Tensor, eps: float, _: bool
    ) -> tuple[Any, ...]:
        x, w, b = tasks_first(info, dims, x, w, b)
        return _Normalise.apply(x, w, b, eps, True), (0, 0, 0)


class _Gradient(torch.autograd.Function):
    """Compute the gradients of a batch norm.

    The gradients are ``w r (g - mean(g) - y mean(g y))``, ``sum(g y)`` and ``sum(g)``.

    The gradient of these includes the dependence of ``mean`` and ``r`` on ``x``, which autograd takes for constants.
    """

    @staticmethod
    def forward(g: Tensor, x: Tensor, w: Tensor, mean: Tensor, r: Tensor, eps: float, tasks: bool) -> Tensors:
        if not tasks:
            return _native_gradient(g, x, w, mean, r, eps)
        if _task_by_task(x):
            dx = torch.empty_like(g)
            dw = torch.empty_like(w)
            db = torch.empty_like(w)
            for task, given in enumerate(zip(g, x, w, mean, r, strict=True)):
                dx[task], dw[task], db[task] = _native_gradient(*given, eps)
            return dx, dw, db
        axes = _Axes(x, tasks)
        sum_g = axes.sum(g)
        sum_gy = (axes.sum(g * x) - mean * sum_g) * r
        slope = -w * r * r * sum_gy / axes.count
        return axes.combine(-w * r * sum_g / axes.count - slope * mean, (g, w * r), (x, slope)), sum_gy, sum_g

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Any, ...]) -> None:
        *tensors, _, ctx.tasks = inputs
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*tensors, *output[1:])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, h: Tensor | None, a: Tensor | None, b: Tensor | None) -> Grads:
        g, x, w, mean, r, sum_gy, sum_g = ctx.saved_tensors
        axes = _Axes(x, ctx.tasks)
        n = axes.count
        h = torch.zeros_like(x) if h is None else h
        a = torch.zeros_like(w) if a is None else a
        b = torch.zeros_like(w) if b is None else b
        sum_h = axes.sum(h)
        sum_hy = (axes.sum(h * x) - mean * sum_h) * r
        # <h, dx> is w r times this; what follows is the gradient of <h, dx> + a dw + b db.
        product = axes.sum(h * g) - (sum_h * sum_g + sum_hy * sum_gy) / n
        # Its gradient by y, at a fixed r, is q = of_h h + of_g g. Then x moves y, mean and r.
        of_h = -w * r * sum_gy / n
        of_g = a - w * r * sum_hy / n
        dg = axes.combine(b - w * r * sum_h / n - of_g * r * mean, (h, w * r), (x, of_g * r))
        mean_q = (of_h * sum_h + of_g * sum_g) / n
        mean_qy = (of_h * sum_hy + of_g * sum_gy) / n
        of_x = -r * r * (mean_qy + w * product * r / n)
        dx = axes.combine(-r * mean_q - of_x * mean, (h, r * of_h), (g, r * of_g), (x, of_x))
        return dg, dx, r * product, None, None, None, None


def _native_gradient(g: Tensor, x: Tensor, w: Tensor, mean: Tensor, r: Tensor, eps: float) -> Tensors:
    gradients: Tensors = torch.ops.aten.native_batch_norm_backward(
        g, x, w, None, None, mean, r, True, eps, [True, True, True]
    )
    return gradients
