"""The gradient of an inner loss, of one task or under ``vmap`` of each of many."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor
from torch._C._functorch import _add_batch_dim, _remove_batch_dim, peek_interpreter_stack
from torch._functorch.pyfunctorch import (
    VmapInterpreter,
    retrieve_current_functorch_interpreter,
    temporarily_pop_interpreter_stack,
)

Params = dict[str, Tensor]
InnerLoss = Callable[[Params, int], Tensor]


def gradient(loss: InnerLoss, params: Params, step: int, create_graph: bool) -> Params:
    """The gradient of ``loss(params, step)``; of each task's own where called under ``vmap``.

    Without ``create_graph`` it is a constant, and no graph of the pass is kept.
    """
    if peek_interpreter_stack() is None:
        return _differentiate(loss, params, step, create_graph)
    # Tasks do not meet in their losses: plain autograd of the sum, below ``vmap``, gives each its own gradient.
    # ``torch.func.grad`` inside ``vmap`` does too, but a second layer of wrapped tensors doubles what a step of
    # five small images costs.
    vmap = retrieve_current_functorch_interpreter()
    assert isinstance(vmap, VmapInterpreter)
    level, size = vmap.level(), vmap.batch_size()

    def losses(stacked: Params, step: int) -> Tensor:
        value = loss({name: _add_batch_dim(value, 0, level) for name, value in stacked.items()}, step)
        return _remove_batch_dim(value, level, size, 0)

    stacked = {name: _remove_batch_dim(value, level, size, 0) for name, value in params.items()}
    gradients = _differentiate(losses, stacked, step, create_graph)
    return {name: _add_batch_dim(value, 0, level) for name, value in gradients.items()}


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
