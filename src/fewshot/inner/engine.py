"""Engines: how a task axis and an inner loop run.

A method writes what happens in one episode. An engine runs it for every episode of a batch and owns
the gradient steps inside, so engines are interchangeable and one test compares them.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor

from fewshot.episode import Episode

Params = dict[str, Tensor]
Rates = Mapping[str, Tensor | float]
InnerLoss = Callable[[Params, int], Tensor]
TaskFunction = Callable[[Episode], dict[str, Tensor]]


class Engine(ABC):
    """Runs one-task functions over the task axis.

    Args:
        chunk: tasks computed together; None chooses it from the size of a task.
    """

    def __init__(self, chunk: int | None = None) -> None:
        if chunk is not None and chunk < 1:
            raise ValueError(f"engine.chunk={chunk}: must be at least 1, or null to choose it")
        self.chunk = chunk

    @abstractmethod
    def default_chunk(self, episodes: Episode, adapts: bool) -> int:
        """Tasks computed together when ``chunk`` is None."""

    @abstractmethod
    def each(self, function: TaskFunction, episodes: Episode) -> dict[str, Tensor]:
        """``function`` of every task, its outputs stacked along a first axis of ``len(episodes)``."""

    @abstractmethod
    def gradient(self, loss: InnerLoss, params: Params, step: int, create_graph: bool) -> Params:
        """The gradient of ``loss(params, step)`` with respect to ``params``."""

    def chunks(self, episodes: Episode, adapts: bool) -> Iterator[Episode]:
        """The batch in pieces that are computed together: the caller runs backward on each, which frees its graph.

        ``adapts`` says whether each task has weights of its own.
        """
        return episodes.chunks(self.chunk or self.default_chunk(episodes, adapts))

    def descend(self, loss: InnerLoss, params: Params, rates: Rates, steps: int, second_order: bool) -> Params:
        """Gradient descent in one task: ``params`` after ``steps`` steps.

        First order treats inner gradients as constants: the result depends on ``params`` (and on
        ``rates``) as if they were, and no graph of an inner pass is kept.
        """
        for step in range(steps):
            gradients = self.gradient(loss, params, step, create_graph=second_order)
            params = {name: value - rates[name] * gradients[name] for name, value in params.items()}
        return params


class VmapEngine(Engine):
    """``torch.func.vmap`` over tasks, a chunk at a time: per-task weights become grouped convolutions."""

    # Measured on two cores: wider batches fall out of the cache, smaller ones leave the cores idle.
    most_tasks, most_images = 16, 1024

    def default_chunk(self, episodes: Episode, adapts: bool) -> int:
        if episodes.support_x.is_cuda:
            return len(episodes)
        if not adapts:  # the images of one task fill a CPU, and shared weights leave nothing to batch
            return 1
        images = episodes.support_x.shape[1] + episodes.query_x.shape[1]
        return max(1, min(self.most_tasks, self.most_images // images))

    def each(self, function: TaskFunction, episodes: Episode) -> dict[str, Tensor]:
        if len(episodes) == 1:  # shared weights and plain convolutions, without the cost of a batching rule
            return {name: value[None] for name, value in function(episodes[0]).items()}
        return torch.func.vmap(lambda tensors: function(episodes.with_tensors(tensors)))(episodes.tensors())

    def gradient(self, loss: InnerLoss, params: Params, step: int, create_graph: bool) -> Params:
        # ``torch.func.grad`` records its own level whatever the mode; what is outside of it is recorded only
        # when grad mode is on, so switching it off is what makes first order cheap.
        with torch.set_grad_enabled(create_graph and torch.is_grad_enabled()):
            return torch.func.grad(loss)(params, step)


class LoopEngine(Engine):
    """A Python loop over tasks with ``torch.autograd``: slower, plain, and the check of the other."""

    def default_chunk(self, episodes: Episode, adapts: bool) -> int:
        return 1

    def each(self, function: TaskFunction, episodes: Episode) -> dict[str, Tensor]:
        outputs = [function(episodes[task]) for task in range(len(episodes))]
        return {name: torch.stack([output[name] for output in outputs]) for name in outputs[0]}

    def gradient(self, loss: InnerLoss, params: Params, step: int, create_graph: bool) -> Params:
        create_graph = create_graph and torch.is_grad_enabled()
        with torch.enable_grad():
            if not create_graph:
                params = {name: value.detach().requires_grad_() for name, value in params.items()}
            gradients = torch.autograd.grad(
                loss(params, step), list(params.values()), create_graph=create_graph, materialize_grads=True
            )
        return dict(zip(params, gradients, strict=True))
