"""Convolutions with weights of each task's own, fast under second-order gradients.

Under ``torch.func.vmap`` tasks bring weights of their own. A grouped convolution would serve, slowly: here
images become rows of patches, and all tasks go through one batched matrix product. Patches and their transpose are
each other's derivatives, and a product's are products: what is patched once serves all derivatives.

Where the library's own kernels are faster, y = x * w is linear in both, and so are its two gradients: each of
the three can be written as the derivative of another. Three functions that are each other's derivatives are
closed under differentiation, and none needs autograd's double-backward of a convolution, which is slow.

Memory is channels-last throughout, so that rows need no transposition.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fewshot.networks.task_axis import in_front

Pair = tuple[int, int]
Shape = Sequence[int]
_CL = torch.channels_last
# Measured on a CPU: with few channels a library convolution wastes its vectors (with shared weights only where there is
# one channel); with many rows a task fills the cores, and patches are what memory costs.
_FEW_CHANNELS, _FEW_SHARED, _MANY_ROWS = 8, 3, 500


class Conv2d(nn.Conv2d):
    """``nn.Conv2d`` (its arguments and weights) for zero padding, no dilation and no groups."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        if self.dilation != (1, 1) or self.groups != 1 or self.padding_mode != "zeros" or isinstance(self.padding, str):
            raise ValueError("Conv2d takes neither dilation, groups, padding modes nor padding by name")

    def forward(self, x: Tensor) -> Tensor:
        few = x.shape[-3] < _FEW_SHARED and not x.is_cuda
        convolve = _product if few else _Convolve.apply
        y = convolve(x, self.weight, self.stride, self.padding)  # type: ignore[arg-type]
        return y if self.bias is None else y + self.bias.view(-1, 1, 1)


def _product(x: Tensor, w: Tensor, stride: Pair, padding: Pair) -> Tensor:
    """Images ``(..., n, C, H, W)`` convolved with weights ``(..., O, C, h, w)``: ``(..., n, O, H', W')``."""
    rows = _Patches.apply(x, (w.shape[-2], w.shape[-1]), stride, padding)
    product = rows.flatten(-4, -2) @ w.movedim(-3, -1).flatten(-3).mT
    return product.view(*rows.shape[:-1], -1).movedim(-1, -3)


class _Patches(torch.autograd.Function):
    """``(..., n, H', W', h w C)``: what each output of a convolution sees of ``(..., n, C, H, W)``."""

    @staticmethod
    def forward(x: Tensor, size: Pair, stride: Pair, padding: Pair) -> Tensor:
        *batch, channels, high, wide = x.shape
        x = x.reshape(-1, channels, high, wide).permute(0, 2, 3, 1)
        x = F.pad(x, (0, 0, padding[1], padding[1], padding[0], padding[0])).contiguous()
        out = [(n + 2 * p - k) // s + 1 for n, p, k, s in zip((high, wide), padding, size, stride, strict=True)]
        a, b, c, d = x.stride()
        view = x.as_strided((len(x), *out, *size, channels), (a, b * stride[0], c * stride[1], b, c, d))
        return view.reshape(*batch, *out, -1)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        x, *ctx.how = inputs
        ctx.shape = x.shape

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple:
        return _Fold.apply(g, *ctx.how, ctx.shape), None, None, None

    @staticmethod
    def vmap(info: Any, dims: tuple, x: Tensor, size: Pair, stride: Pair, padding: Pair) -> tuple[Tensor, int]:
        return _Patches.apply(x.movedim(dims[0], 0), size, stride, padding), 0


class _Fold(torch.autograd.Function):
    """The transpose of ``_Patches``: each place of ``shape`` receives the sum over the patches that it is in."""

    @staticmethod
    def forward(rows: Tensor, size: Pair, stride: Pair, padding: Pair, shape: Shape) -> Tensor:
        *batch, channels, high, wide = shape
        out = rows.shape[-3:-1]
        patches = rows.reshape(-1, *out, *size, channels)
        x = rows.new_empty(len(patches), high + 2 * padding[0], wide + 2 * padding[1], channels)
        if size[0] < stride[0] or size[1] < stride[1]:
            x.zero_()
        x[:, out[0] * stride[0] :].zero_()  # what no first visit below reaches
        x[:, :, out[1] * stride[1] :].zero_()
        for i in range(size[0]):
            for j in range(size[1]):
                last = i + stride[0] * (out[0] - 1) + 1, j + stride[1] * (out[1] - 1) + 1
                here = x[:, i : last[0] : stride[0], j : last[1] : stride[1]]
                if i < stride[0] and j < stride[1]:
                    here.copy_(patches[:, :, :, i, j])
                else:
                    here.add_(patches[:, :, :, i, j])
        x = x[:, padding[0] : padding[0] + high, padding[1] : padding[1] + wide]
        return x.permute(0, 3, 1, 2).view(*batch, channels, high, wide)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        _, *ctx.how, _ = inputs

    @staticmethod
    def backward(ctx: Any, x: Tensor) -> tuple:
        return _Patches.apply(x, *ctx.how), None, None, None, None


# The library's kernels: images (n, C, H, W), outputs (n, O, H', W') and weights (O, C, h, w); task by task where
# each has an axis of tasks in front.


def _convolve(x: Tensor, w: Tensor, stride: Pair, padding: Pair) -> Tensor:
    if x.ndim == 5:
        return _stack([_convolve(*task, stride, padding) for task in zip(x, w, strict=True)])
    return torch.conv2d(_nhwc(x), _nhwc(w), None, stride, padding)


def _input_gradient(g: Tensor, w: Tensor, stride: Pair, padding: Pair, shape: Shape) -> Tensor:
    if g.ndim == 5:
        return _stack([_input_gradient(*task, stride, padding, shape[1:]) for task in zip(g, w, strict=True)])
    return _backward(g, g.new_empty(1).expand(shape), w, stride, padding, (True, False, False))[0]


def _weight_gradient(x: Tensor, g: Tensor, stride: Pair, padding: Pair, shape: Shape) -> Tensor:
    if x.ndim == 5:
        return _stack([_weight_gradient(*task, stride, padding, shape[1:]) for task in zip(x, g, strict=True)])
    return _backward(g, x, g.new_empty(1).expand(shape), stride, padding, (False, True, False))[1]


def _backward(g: Tensor, x: Tensor, w: Tensor, stride: Pair, padding: Pair, mask: tuple) -> tuple[Tensor, ...]:
    return torch.ops.aten.convolution_backward(
        _nhwc(g), _nhwc(x), _nhwc(w), None, stride, padding, (1, 1), False, (0, 0), 1, mask
    )


def _stack(images: list[Tensor]) -> Tensor:
    """As ``torch.stack``, with channels last."""
    return torch.stack([x.movedim(-3, -1) for x in images]).movedim(-1, -3)


def _nhwc(x: Tensor) -> Tensor:
    return x if x.stride()[0] == 0 else x.contiguous(memory_format=_CL)


# The same three for autograd; of them only the first meets vmap, since gradients are taken below it.


class _Convolve(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, w: Tensor, stride: Pair, padding: Pair) -> Tensor:
        return _convolve(x, w, stride, padding)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        x, w, *ctx.how = inputs
        ctx.save_for_backward(x, w)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple:
        x, w = ctx.saved_tensors
        dx = _InputGradient.apply(g, w, *ctx.how, x.shape) if ctx.needs_input_grad[0] else None
        dw = _WeightGradient.apply(x, g, *ctx.how, w.shape) if ctx.needs_input_grad[1] else None
        return dx, dw, None, None

    @staticmethod
    def vmap(info: Any, dims: tuple, x: Tensor, w: Tensor, stride: Pair, padding: Pair) -> tuple[Tensor, int]:
        if dims[1] is None:  # shared weights: one pass for all tasks
            x = x.movedim(dims[0], 0)
            return _Convolve.apply(x.flatten(0, 1), w, stride, padding).unflatten(0, x.shape[:2]), 0
        x, w = in_front(info, dims, x, w)
        rows = x.shape[-4] * x.shape[-2] * x.shape[-1] // (stride[0] * stride[1])
        by_task = not x.is_cuda and x.shape[-3] >= _FEW_CHANNELS and rows >= _MANY_ROWS
        return (_Convolve.apply if by_task else _product)(x, w, stride, padding), 0


class _InputGradient(torch.autograd.Function):
    @staticmethod
    def forward(g: Tensor, w: Tensor, stride: Pair, padding: Pair, shape: Shape) -> Tensor:
        return _input_gradient(g, w, stride, padding, shape)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        g, w, *ctx.how, _ = inputs
        ctx.save_for_backward(g, w)

    @staticmethod
    def backward(ctx: Any, x: Tensor) -> tuple:
        g, w = ctx.saved_tensors
        dg = _Convolve.apply(x, w, *ctx.how) if ctx.needs_input_grad[0] else None
        dw = _WeightGradient.apply(x, g, *ctx.how, w.shape) if ctx.needs_input_grad[1] else None
        return dg, dw, None, None, None


class _WeightGradient(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, g: Tensor, stride: Pair, padding: Pair, shape: Shape) -> Tensor:
        return _weight_gradient(x, g, stride, padding, shape)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        x, g, *ctx.how, _ = inputs
        ctx.save_for_backward(x, g)

    @staticmethod
    def backward(ctx: Any, w: Tensor) -> tuple:
        x, g = ctx.saved_tensors
        dx = _InputGradient.apply(g, w, *ctx.how, x.shape) if ctx.needs_input_grad[0] else None
        dg = _Convolve.apply(x, w, *ctx.how) if ctx.needs_input_grad[1] else None
        return dx, dg, None, None, None
