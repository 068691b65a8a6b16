"""Differentiate an inner loss, also under ``vmap``.

Tasks do not meet in their losses: plain autograd of the sum over tasks, below ``vmap``, gives each task its own
gradient. ``torch.func.grad`` inside ``vmap`` does too, but a second layer of wrapped tensors doubles the cost of a
step on five small images.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial

import torch
from torch import Tensor

try:  # the inside of vmap, which no version of torch promises: pyproject.toml bounds the versions that were tried
    from torch._C._functorch import _add_batch_dim, _remove_batch_dim, peek_interpreter_stack
    from torch._functorch.pyfunctorch import (
        VmapInterpreter,
        retrieve_current_functorch_interpreter,
        temporarily_pop_interpreter_stack,
    )
except ImportError as error:
    raise ImportError(
        f"fewshot works with torch 2.13 and 2.14, but this is torch {torch.__version__} ({error}): "
        "pip install 'torch>=2.13,<2.15'"
    ) from None

Params = dict[str, Tensor]
Rates = Mapping[str, Tensor | float]
InnerLoss = Callable[[Params, int], Tensor]


def gradient(loss: InnerLoss, params: Params, step: int, create_graph: bool) -> Params:
    """Return the gradient of ``loss(params, step)``.

    Under ``vmap`` the result is the gradient of each task. Without ``create_graph`` the gradient is a constant, and no
    graph of the pass is kept.
    """
    if peek_interpreter_stack() is None:
        return _differentiate(loss, params, step, create_graph)
    vmap = _Vmap()
    return vmap.split(_differentiate(vmap.stacked_loss(loss), vmap.stack(params), step, create_graph))


def descend_in_place(loss: InnerLoss, params: Params, rates: Mapping[str, float], step: int) -> None:
    """Take a gradient step in place.

    Rate times gradient is subtracted from ``params``, one parameter after another. A gradient is freed before the next
    gradient is computed. The graph behind ``params`` keeps its derivative, as if the gradient were a constant. No
    backward pass may have saved ``params``.
    """
    if peek_interpreter_stack() is not None:
        vmap = _Vmap()
        loss = vmap.stacked_loss(loss)
        params = vmap.stack(params)
    with _below_vmap():
        leaves = {name: value.detach().requires_grad_() for name, value in params.items()}
        for name, leaf in leaves.items():
            leaf.register_post_accumulate_grad_hook(partial(_subtract_gradient, rates[name]))
    with torch.enable_grad():
        value = loss(leaves, step)
        with _below_vmap():
            torch.autograd.backward(value.sum(), inputs=list(leaves.values()))


def _subtract_gradient(rate: float, leaf: Tensor) -> None:
    assert leaf.grad is not None
    leaf.data.sub_(leaf.grad, alpha=rate)
    leaf.grad = None


class _Vmap:
    """Convert tensors between one task and all tasks.

    One task is inside ``vmap``; all tasks are stacked below ``vmap``.
    """

    def __init__(self) -> None:
        interpreter = retrieve_current_functorch_interpreter()
        assert isinstance(interpreter, VmapInterpreter)
        self.level = interpreter.level()
        self.tasks = interpreter.batch_size()

    def stack(self, params: Params) -> Params:
        """Return the stacked parameters of all tasks.

        The axis of tasks comes first.
        """
        return {name: _remove_batch_dim(value, self.level, self.tasks, 0) for name, value in params.items()}

    def split(self, params: Params) -> Params:
        """Return stacked parameters as one task's parameters."""
        return {name: _add_batch_dim(value, 0, self.level) for name, value in params.items()}

    def stacked_loss(self, loss: InnerLoss) -> InnerLoss:
        """Return a loss function of stacked parameters.

        The function returns the losses of all tasks.
        """

        def losses(stacked: Params, step: int) -> Tensor:
            value: Tensor = _remove_batch_dim(loss(self.split(stacked), step), self.level, self.tasks, 0)
            return value

        return losses


def _differentiate(loss: InnerLoss, params: Params, step: int, create_graph: bool) -> Params:
    create_graph = create_graph and torch.is_grad_enabled()
    with _below_vmap():  # a constant adapts too, such as a parameter that the outer loop leaves alone
        params = {
            name: value if create_graph and value.requires_grad else value.detach().requires_grad_()
            for name, value in params.items()
        }
    with torch.enable_grad():
        value = loss(params, step)
        with _below_vmap():
            gradients = torch.autograd.grad(
                value.sum(), list(params.values()), create_graph=create_graph, materialize_grads=True
            )
    return dict(zip(params, gradients, strict=True))


def _below_vmap() -> AbstractContextManager[None]:
    return nullcontext() if peek_interpreter_stack() is None else temporarily_pop_interpreter_stack()
