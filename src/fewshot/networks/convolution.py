"""Convolve with different weights for each task.

The convolution is fast under second-order gradients.

Under ``torch.func.vmap`` tasks bring weights of their own. A grouped convolution would serve, slowly: here
images become rows of patches, and all tasks go through one batched matrix product. Where the library's own
kernels are faster, they are used task by task.

Both ways are linear in the images and in the weights, and so are their two gradients: images, weights and outputs are
each a map of the other two, and the three maps are each other's derivatives. The maps are closed under
differentiation: no map needs autograd's double-backward of a convolution, or its transposed products, which are slow.

Memory is channels-last throughout, so that rows need no transposition.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fewshot.networks.task_axis import tasks_first

Pair = tuple[int, int]
Shape = Sequence[int]
_CL = torch.channels_last
# Measured on a CPU: with few channels a library convolution wastes its vectors (with shared weights only at one or two
# channels); with many rows a task fills the cores, and patches cost the most memory.
_FEW_CHANNELS = 8
_FEW_SHARED = 3
_MANY_ROWS = 500


class Conv2d(nn.Conv2d):
    """Convolve as ``nn.Conv2d``, with fewer settings.

    Padding is by zeros; there are neither dilation nor groups.

    Raises:
        ValueError: other settings of ``nn.Conv2d``.
    """

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        if self.dilation != (1, 1) or self.groups != 1 or self.padding_mode != "zeros" or isinstance(self.padding, str):
            raise ValueError(
                "Conv2d takes neither dilation, groups, padding modes nor padding by name: use torch's nn.Conv2d, "
                "which is right too, and slower where every task has weights of its own"
            )

    def forward(self, x: Tensor) -> Tensor:
        """Return the convolved images.

        Images ``(M, C, H, W)`` give outputs ``(M, O, H', W')``.
        """
        few = x.shape[-3] < _FEW_SHARED and not x.is_cuda
        convolve = _product if few else _convolution
        w: Tensor = self.weight
        device = x.device.type
        if torch.is_autocast_enabled(device):  # here, so that derivatives see one type wherever they are taken
            x = x.to(torch.get_autocast_dtype(device))
            w = w.to(torch.get_autocast_dtype(device))
        y = convolve(x, w, self.stride, self.padding)  # type: ignore[arg-type]
        return y if self.bias is None else y + self.bias.view(-1, 1, 1)


def _product(x: Tensor, w: Tensor, stride: Pair, padding: Pair) -> Tensor:
    """Convolve by a matrix product of patches and weights.

    Args:
        x: images ``(..., n, C, H, W)``.
        w: weights ``(..., O, C, h, w)``.
        stride, padding: of the convolution.

    Returns:
        ``(..., n, O, H', W')``.
    """
    rows: Tensor = _Patches.apply(x, (w.shape[-2], w.shape[-1]), stride, padding)
    product: Tensor = _Bilinear.apply("outputs", _Product(), rows.flatten(-4, -2), w.movedim(-3, -1).flatten(-3))
    return product.view(*rows.shape[:-1], -1).movedim(-1, -3)


def _convolution(x: Tensor, w: Tensor, stride: Pair, padding: Pair) -> Tensor:
    """Convolve by the library's kernels.

    The kernels serve shared weights and large tasks.
    """
    outputs: Tensor = _Bilinear.apply("outputs", _Convolution(stride, padding, x.shape, w.shape), x, w)
    return outputs


_ROLES = ("images", "weights", "outputs")


@dataclass(frozen=True)
class _Product:
    """Relate rows, filters and outputs by a matrix product.

    Rows ``(..., N, K)`` stand for images, filters ``(..., O, K)`` for weights; outputs are ``(..., N, O)``.
    """

    def images(self, filters: Tensor, outputs: Tensor) -> Tensor:
        return outputs @ filters

    def weights(self, rows: Tensor, outputs: Tensor) -> Tensor:
        # A product with few columns is slow.
        few = rows.shape[-1] < outputs.shape[-1]
        return (rows.mT @ outputs).mT.contiguous() if few else outputs.mT @ rows

    def outputs(self, rows: Tensor, filters: Tensor) -> Tensor:
        return rows @ filters.mT

    def of_tasks(self, info: Any, dims: Sequence[int | None], rows: Tensor, filters: Tensor) -> Tensor:
        """Return ``outputs`` for rows or filters of tasks."""
        outputs: Tensor
        if dims[1] is None:
            rows = rows.movedim(dims[0] or 0, 0)
            outputs = _Bilinear.apply("outputs", self, rows.flatten(0, 1), filters).unflatten(0, rows.shape[:2])
            return outputs
        outputs = _Bilinear.apply("outputs", self, *tasks_first(info, dims, rows, filters))
        return outputs


@dataclass(frozen=True)
class _Convolution:
    """Relate images, weights and outputs by the library's kernels.

    Where these have an axis of tasks in front, the kernels run task by task.
    """

    stride: Pair
    padding: Pair
    of_images: Shape
    of_weights: Shape

    def images(self, w: Tensor, g: Tensor) -> Tensor:
        if g.ndim == 5:
            return _stack([self._task().images(*task) for task in zip(w, g, strict=True)])
        return self._backward(g, g.new_empty(1).expand(self.of_images), w, (True, False, False))[0]

    def weights(self, x: Tensor, g: Tensor) -> Tensor:
        if g.ndim == 5:
            return _stack([self._task().weights(*task) for task in zip(x, g, strict=True)])
        return self._backward(g, x, g.new_empty(1).expand(self.of_weights), (False, True, False))[1]

    def outputs(self, x: Tensor, w: Tensor) -> Tensor:
        if x.ndim == 5:
            return _stack([self._task().outputs(*task) for task in zip(x, w, strict=True)])
        return torch.conv2d(_nhwc(x), _nhwc(w), None, self.stride, self.padding)

    def of_tasks(self, info: Any, dims: Sequence[int | None], x: Tensor, w: Tensor) -> Tensor:
        """Return ``outputs`` for images or weights of tasks."""
        if dims[1] is None:  # shared weights: one pass for all tasks
            x = x.movedim(dims[0] or 0, 0)
            outputs: Tensor = _convolution(x.flatten(0, 1), w, self.stride, self.padding).unflatten(0, x.shape[:2])
            return outputs
        x, w = tasks_first(info, dims, x, w)
        rows = x.shape[-4] * x.shape[-2] * x.shape[-1] // (self.stride[0] * self.stride[1])
        by_task = not x.is_cuda and x.shape[-3] >= _FEW_CHANNELS and rows >= _MANY_ROWS
        return (_convolution if by_task else _product)(x, w, self.stride, self.padding)

    def _task(self) -> "_Convolution":
        return _Convolution(self.stride, self.padding, self.of_images[1:], self.of_weights[1:])

    def _backward(self, g: Tensor, x: Tensor, w: Tensor, mask: tuple[bool, ...]) -> tuple[Tensor, ...]:
        gradients: tuple[Tensor, ...] = torch.ops.aten.convolution_backward(
            _nhwc(g), _nhwc(x), _nhwc(w), None, self.stride, self.padding, (1, 1), False, (0, 0), 1, mask
        )
        return gradients


class _Bilinear(torch.autograd.Function):
    """Compute images, weights or outputs from the other two.

    The inputs are the role to compute, the form that relates the three, and the other two in the order of ``_ROLES``.
    """

    @staticmethod
    def forward(role: str, form: "_Product | _Convolution", a: Tensor, b: Tensor) -> Tensor:
        result: Tensor = getattr(form, role)(a, b)
        return result

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.role, ctx.form, *tensors = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Any, ...]:
        others = [role for role in _ROLES if role != ctx.role]
        given = dict(zip((*others, ctx.role), (*ctx.saved_tensors, g), strict=True))
        gradients = [
            _Bilinear.apply(role, ctx.form, *(given[other] for other in _ROLES if other != role)) if needed else None
            for role, needed in zip(others, ctx.needs_input_grad[2:], strict=True)
        ]
        return None, None, *gradients

    @staticmethod
    def vmap(
        info: Any, dims: tuple[int | None, ...], role: str, form: "_Product | _Convolution", a: Tensor, b: Tensor
    ) -> tuple[Tensor, int]:
        assert role == "outputs", "gradients are taken below vmap"
        return form.of_tasks(info, dims[2:], a, b), 0


def _stack(images: list[Tensor]) -> Tensor:
    """Stack images as ``torch.stack``, with channels last."""
    return torch.stack([x.movedim(-3, -1) for x in images]).movedim(-1, -3)


def _nhwc(x: Tensor) -> Tensor:
    return x if x.stride()[0] == 0 else x.contiguous(memory_format=_CL)


class _Patches(torch.autograd.Function):
    """Cut images into one patch for each output.

    Input: ``(..., n, C, H, W)``. Output: ``(..., n, H', W', h w C)``.
    """

    @staticmethod
    def forward(x: Tensor, size: Pair, stride: Pair, padding: Pair) -> Tensor:
        *batch, channels, high, wide = x.shape
        x = _padded(x.reshape(-1, channels, high, wide).permute(0, 2, 3, 1), padding)
        out = [(n + 2 * p - k) // s + 1 for n, p, k, s in zip((high, wide), padding, size, stride, strict=True)]
        a, b, c, d = x.stride()
        view = x.as_strided((len(x), *out, *size, channels), (a, b * stride[0], c * stride[1], b, c, d))
        return view.reshape(*batch, *out, -1)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, *ctx.how = inputs
        ctx.shape = x.shape

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Any, ...]:
        return _Fold.apply(g, *ctx.how, ctx.shape), None, None, None

    @staticmethod
    def vmap(
        info: Any, dims: tuple[int, ...], x: Tensor, size: Pair, stride: Pair, padding: Pair
    ) -> tuple[Tensor, int]:
        return _Patches.apply(x.movedim(dims[0], 0), size, stride, padding), 0


class _Fold(torch.autograd.Function):
    """Sum patches into images: the transpose of ``_Patches``."""

    @staticmethod
    def forward(rows: Tensor, size: Pair, stride: Pair, padding: Pair, shape: Shape) -> Tensor:
        *batch, channels, high, wide = shape
        out = rows.shape[-3:-1]
        patches = rows.reshape(-1, *out, *size, channels)
        x = rows.new_empty(len(patches), high + 2 * padding[0], wide + 2 * padding[1], channels)
        if size[0] < stride[0] or size[1] < stride[1]:
            x.zero_()
        x[:, out[0] * stride[0] :].zero_()  # rows and columns that no first visit below reaches
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
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, *ctx.how, _ = inputs

    @staticmethod
    def backward(ctx: Any, x: Tensor) -> tuple[Any, ...]:
        return _Patches.apply(x, *ctx.how), None, None, None, None


def _padded(x: Tensor, padding: Pair) -> Tensor:
    """Surround images by zeros.

    Images are ``(n, H, W, C)``. ``F.pad`` would fill everything with zeros first.
    """
    n, high, wide, channels = x.shape
    top, left = padding
    result = x.new_empty(n, high + 2 * top, wide + 2 * left, channels)
    for border in (result[:, :top], result[:, top + high :], result[:, :, :left], result[:, :, left + wide :]):
        border.zero_()
    result[:, top : top + high, left : left + wide] = x
    return result
