"""Map functions over tasks, with inner gradient steps.

A method describes one episode. An engine applies the method to every episode of a batch and owns the gradient
steps inside, so engines are interchangeable and one test compares them.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from fewshot.engines.gradient import InnerLoss, Params, Rates, descend_in_place, gradient
from fewshot.episode import Episode
from fewshot.errors import UserError

TaskFunction = Callable[[Episode], dict[str, Tensor]]


class Engine(ABC):
    """Apply functions of one task to a batch.

    Args:
        chunk: tasks computed together; None chooses the number by the size of a task.
        checkpoint: under second order keep no graph of the inner steps, but repeat each step in the
            backward pass: the memory of one step instead of all steps, for half as much time again. One task at a time.
    """

    def __init__(self, chunk: int | None = None, checkpoint: bool = False) -> None:
        if chunk is not None and chunk < 1:
            raise UserError(f"engine.chunk={chunk}: must be at least 1, or null to choose it")
        if checkpoint and chunk not in (None, 1):
            raise UserError(f"engine.checkpoint=true takes one task at a time: engine.chunk={chunk} cannot be had")
        self.chunk = 1 if checkpoint else chunk
        self.checkpoint = checkpoint

    @abstractmethod
    def default_chunk(self, episodes: Episode, adapts: bool) -> int:
        """Return how many tasks are computed together.

        This is the number when ``chunk`` is None.
        """

    @abstractmethod
    def map_tasks(self, function: TaskFunction, episodes: Episode) -> dict[str, Tensor]:
        """Apply a function to every task.

        The outputs are stacked.
        """

    def chunks(self, episodes: Episode, adapts: bool) -> Iterator[Episode]:
        """Split a batch into pieces computed together.

        The caller runs backward on each piece, which frees the graph of the piece.

        Args:
            episodes: the batch.
            adapts: whether each task has weights of its own.
        """
        return episodes.chunks(self.chunk or self.default_chunk(episodes, adapts))

    def descend(self, loss: InnerLoss, params: Params, rates: Rates, steps: int, second_order: bool) -> Params:
        """Return ``params`` after gradient descent in one task.

        First order treats inner gradients as constants: the result depends on ``params`` and ``rates`` through the
        subtraction alone, and no graph of an inner pass is kept.
        """

        def after(params: Params, step: int) -> Params:
            gradients = gradient(loss, params, step, create_graph=second_order)
            return {name: value - rates[name] * gradients[name] for name, value in params.items()}

        graph = second_order and torch.is_grad_enabled()
        again = self.checkpoint and graph
        fixed = {name: rate for name, rate in rates.items() if not isinstance(rate, Tensor)}
        for step in range(steps):
            if step and not graph and len(fixed) == len(rates):  # the first step may not change the caller's tensors
                descend_in_place(loss, params, fixed, step)
                continue
            params = checkpoint(after, params, step, use_reentrant=False) if again else after(params, step)
        return params


class VmapEngine(Engine):
    """Map ``torch.func.vmap`` over the tasks of a chunk."""

    # Measured on two cores: more tasks share the cost of a call, until memory is the limit.
    most_tasks = 32
    most_pixels = 800_000

    def default_chunk(self, episodes: Episode, adapts: bool) -> int:
        if episodes.support_x.is_cuda:
            return len(episodes)
        if not adapts:  # the images of one task fill a CPU, and shared weights leave nothing to batch
            return 1
        pixels = sum(x[0, :, 0].numel() for x in (episodes.support_x, episodes.query_x))
        return max(1, min(self.most_tasks, self.most_pixels // pixels))

    def map_tasks(self, function: TaskFunction, episodes: Episode) -> dict[str, Tensor]:
        if len(episodes) == 1:  # shared weights and plain convolutions, without the cost of a batching rule
            return {name: value[None] for name, value in function(episodes[0]).items()}
        return torch.func.vmap(lambda tensors: function(episodes.with_tensors(tensors)))(episodes.tensors())


class LoopEngine(Engine):
    """Loop over tasks in Python.

    Tests compare ``VmapEngine`` with this slower and simpler loop.
    """

    def default_chunk(self, episodes: Episode, adapts: bool) -> int:
        return 1

    def map_tasks(self, function: TaskFunction, episodes: Episode) -> dict[str, Tensor]:
        outputs = [function(episodes[task]) for task in range(len(episodes))]
        return {name: torch.stack([output[name] for output in outputs]) for name in outputs[0]}
