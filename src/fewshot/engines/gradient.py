"""The gradient of an inner loss, of one task or under ``vmap`` of each of many."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial

import torch
from torch import Tensor
from torch._C._functorch import _add_batch_dim, _remove_batch_dim, peek_interpreter_stack
from torch._functorch.pyfunctorch import (
    VmapInterpreter,
    retrieve_current_functorch_interpreter,
    temporarily_pop_interpreter_stack,
)

Params = dict[str, Tensor]
Rates = Mapping[str, Tensor | float]
InnerLoss = Callable[[Params, int], Tensor]


def gradient(loss: InnerLoss, params: Params, step: int, create_graph: bool) -> Params:
    """The gradient of ``loss(params, step)``; of each task's own where called under ``vmap``.

    Without ``create_graph`` it is a constant, and no graph of the pass is kept.
    """
    if peek_interpreter_stack() is None:
        return _differentiate(loss, params, step, create_graph)
    loss, params, wrap = _of_all_tasks(loss, params)
    return wrap(_differentiate(loss, params, step, create_graph))


def move(loss: InnerLoss, params: Params, rates: Mapping[str, float], step: int) -> None:
    """Subtracts rate times gradient from ``params``, in place: a gradient is gone before the next one is there.

    What made ``params`` keeps its derivative, as if the gradient were a constant. Nothing may have saved them
    for a backward pass.
    """
    if peek_interpreter_stack() is not None:
        loss, params, _ = _of_all_tasks(loss, params)
    with _below_vmap():
        leaves = {name: value.detach().requires_grad_() for name, value in params.items()}
        for name, leaf in leaves.items():
            leaf.register_post_accumulate_grad_hook(partial(_move, rates[name]))
    with torch.enable_grad():
        value = loss(leaves, step)
        with _below_vmap():
            torch.autograd.backward(value.sum(), inputs=list(leaves.values()))


def _move(rate: float, leaf: Tensor) -> None:
    assert leaf.grad is not None
    leaf.data.sub_(leaf.grad, alpha=rate)
    leaf.grad = None


def _of_all_tasks(loss: InnerLoss, params: Params) -> tuple[InnerLoss, Params, Callable[[Params], Params]]:
    """The loss of each task and its parameters, stacked, as they are below ``vmap``; and the way back up.

    Tasks do not meet in their losses: plain autograd of the sum, below ``vmap``, gives each its own gradient.
    ``torch.func.grad`` inside ``vmap`` does too, but a second layer of wrapped tensors doubles what a step of
    five small images costs.
    """
    vmap = retrieve_current_functorch_interpreter()
    assert isinstance(vmap, VmapInterpreter)
    level, size = vmap.level(), vmap.batch_size()

    def wrap(stacked: Params) -> Params:
        return {name: _add_batch_dim(value, 0, level) for name, value in stacked.items()}

    def losses(stacked: Params, step: int) -> Tensor:
        return _remove_batch_dim(loss(wrap(stacked), step), level, size, 0)

    return losses, {name: _remove_batch_dim(value, level, size, 0) for name, value in params.items()}, wrap


def _differentiate(loss: InnerLoss, params: Params, step: int, create_graph: bool) -> Params:
    create_graph = create_graph and torch.is_grad_enabled()
    if not create_graph:
        with _below_vmap():
            params = {name: value.detach().requires_grad_() for name, value in params.items()}
    with torch.enable_grad():
        value = loss(params, step)
        with _below_vmap():
            gradients = torch.autograd.grad(
                value.sum(), list(params.values()), create_graph=create_graph, materialize_grads=True
            )
    return dict(zip(params, gradients, strict=True))


def _below_vmap() -> AbstractContextManager[None]:
    return nullcontext() if peek_interpreter_stack() is None else temporarily_pop_interpreter_stack()
