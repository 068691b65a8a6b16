"""Batch normalisation as a function that is right and fast under second-order gradients and ``vmap``.

torch's own second derivative of it is a long chain of passes over memory, and under ``vmap`` its scale and
shift give wrong ones (torch 2.13). Here both derivatives are written out, scale and shift included:

    z = w y + b,  y = (x - mean) r,  r = 1 / sqrt(var + eps)
    dx = s (g - mean(g) - y mean(g y))  with s = w r, and dw = sum(g y), db = sum(g) on the way
"""

from typing import Any

import torch
from torch import Tensor

from fewshot.networks.task_axis import in_front

Grads = tuple[Tensor | None, ...]


def batch_normalise(x: Tensor, w: Tensor, b: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """``x`` ``(M, C, ...)`` normalised by its own statistics, scaled by ``w`` and shifted by ``b``, both ``(C,)``.

    Returns:
        the normalised images, and without gradients the mean and the (biased) variance ``(C,)``.
    """
    z, _, mean, r = _Normalise.apply(x.to(w.dtype), w, b, eps, False)  # statistics in full precision
    return z, mean.detach(), r.detach() ** -2 - eps


class _Axes:
    """Where samples and channels are in ``(M, C, ...)``, or in ``(T, M, C, ...)`` with an axis of tasks."""

    def __init__(self, x: Tensor, tasks: bool) -> None:
        channel = 1 + tasks
        self.over = (channel - 1, *range(channel + 1, x.ndim))
        self.shape = (*x.shape[:tasks], 1, x.shape[channel], *(1 for _ in x.shape[channel + 1 :]))
        self.count = x.numel() // (x.shape[channel] * (len(x) if tasks else 1))

    def wide(self, c: Tensor) -> Tensor:
        """``(T, C)`` to what broadcasts over images."""
        return c.reshape(self.shape)

    def sum(self, x: Tensor) -> Tensor:
        return x.sum(self.over)


class _Normalise(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, w: Tensor, b: Tensor, eps: float, tasks: bool) -> tuple[Tensor, ...]:
        axes = _Axes(x, tasks)
        if tasks:
            mean = x.mean(axes.over)
            y = x - axes.wide(mean)
            r = torch.rsqrt(y.square().mean(axes.over) + eps)
            y = y.mul_(axes.wide(r))
        else:
            y, mean, r = torch.native_batch_norm(x, None, None, None, None, True, 0.0, eps)
        return torch.addcmul(axes.wide(b), y, axes.wide(w)), y, mean, r

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple) -> None:
        (_, w, _, _, ctx.tasks), (_, y, mean, r) = inputs, output
        ctx.mark_non_differentiable(mean)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(w, y, r)

    @staticmethod
    def backward(ctx: Any, gz: Tensor | None, gy: Tensor | None, _: None, gr: Tensor | None) -> Grads:
        w, y, r = ctx.saved_tensors
        axes = _Axes(y, ctx.tasks)
        if gz is not None and gy is None and gr is None:
            dx, db, dw = _Gradient.apply(gz, y, w * r, ctx.tasks)
            return dx, dw, db, None, None
        # Of a second derivative: y and r are outputs too.
        g = torch.zeros_like(y) if gy is None else gy
        dw = db = None
        if gz is not None:
            dw, db = axes.sum(gz * y), axes.sum(gz)
            g = torch.addcmul(g, gz, axes.wide(w))
        dx = _Gradient.apply(g, y, r, ctx.tasks)[0]
        if gr is not None:
            dx = torch.addcmul(dx, y, axes.wide(gr * r * r), value=-1 / axes.count)
        return dx, dw, db, None, None

    @staticmethod
    def vmap(info: Any, dims: tuple, x: Tensor, w: Tensor, b: Tensor, eps: float, _: bool) -> tuple:
        x, w, b = in_front(info, dims, x, w, b)
        return _Normalise.apply(x, w, b, eps, True), (0, 0, 0, 0)


class _Gradient(torch.autograd.Function):
    """``s (g - mean(g) - y mean(g y))``, and the two sums."""

    @staticmethod
    def forward(g: Tensor, y: Tensor, s: Tensor, tasks: bool) -> tuple[Tensor, ...]:
        axes = _Axes(y, tasks)
        if not tasks:
            dx, sum_gy, sum_g = torch.ops.aten.native_batch_norm_backward(
                g, y, s, None, None, torch.zeros_like(s), torch.ones_like(s), True, 0.0, [True, True, True]
            )
            return dx, sum_g, sum_gy
        sum_g, sum_gy = axes.sum(g), axes.sum(g * y)
        dx = torch.addcmul(g, y, axes.wide(sum_gy), value=-1 / axes.count)
        return dx.sub_(axes.wide(sum_g / axes.count)).mul_(axes.wide(s)), sum_g, sum_gy

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple) -> None:
        g, y, s, ctx.tasks = inputs
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(g, y, s, *output[1:])

    @staticmethod
    def backward(ctx: Any, h: Tensor | None, a: Tensor | None, b: Tensor | None) -> Grads:
        g, y, s, sum_g, sum_gy = ctx.saved_tensors
        axes = _Axes(y, ctx.tasks)
        n, wide = axes.count, axes.wide
        zero = torch.zeros_like(s)
        along, across, ds = zero if b is None else b, zero if a is None else a, None
        if h is None:
            return torch.addcmul(wide(across), y, wide(along)), g * wide(along), None, None
        sum_h, sum_hy, sum_hg = axes.sum(h), axes.sum(h * y), axes.sum(h * g)
        along, across = along - s * sum_hy / n, across - s * sum_h / n
        dg = torch.addcmul(torch.addcmul(wide(across), h, wide(s)), y, wide(along))
        dy = torch.addcmul(g * wide(along), h, wide(s * sum_gy / n), value=-1)
        ds = sum_hg - (sum_g * sum_h + sum_gy * sum_hy) / n
        return dg, dy, ds, None
