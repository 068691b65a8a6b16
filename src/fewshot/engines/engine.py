"""Engines: how a task axis and an inner loop run.

A method writes what happens in one episode. An engine runs it for every episode of a batch and owns
the gradient steps inside, so engines are interchangeable and one test compares them.
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
    """Runs one-task functions over the task axis.

    Args:
        chunk: tasks computed together; None chooses it from the size of a task.
        checkpoint: under second order keep no graph of the inner steps, but compute each again in the
            backward pass: one step's memory instead of all, for about half as much time again. One task at a time.
    """

    def __init__(self, chunk: int | None = None, checkpoint: bool = False) -> None:
        if chunk is not None and chunk < 1:
            raise UserError(f"engine.chunk={chunk}: must be at least 1, or null to choose it")
        if checkpoint and chunk not in (None, 1):
            raise UserError(f"engine.checkpoint=true takes one task at a time: engine.chunk={chunk} cannot be had")
        self.chunk, self.checkpoint = 1 if checkpoint else chunk, checkpoint

    @abstractmethod
    def default_chunk(self, episodes: Episode, adapts: bool) -> int:
        """Tasks computed together when ``chunk`` is None."""

    @abstractmethod
    def each(self, function: TaskFunction, episodes: Episode) -> dict[str, Tensor]:
        """``function`` of every task, its outputs stacked along a first axis of ``len(episodes)``."""

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

        def after(params: Params, step: int) -> Params:
            gradients = gradient(loss, params, step, create_graph=second_order)
            return {name: value - rates[name] * gradients[name] for name, value in params.items()}

        graph = second_order and torch.is_grad_enabled()
        again = self.checkpoint and graph
        fixed = {name: rate for name, rate in rates.items() if not isinstance(rate, Tensor)}
        for step in range(steps):
            if step and not graph and len(fixed) == len(rates):  # what the first step began from is not ours
                descend_in_place(loss, params, fixed, step)
                continue
            params = checkpoint(after, params, step, use_reentrant=False) if again else after(params, step)
        return params


class VmapEngine(Engine):
    """``torch.func.vmap`` over tasks, a chunk at a time; convolutions of per-task weights become matrix products."""

    # Measured on two cores: more tasks amortise what a call costs, until memory is what they cost.
    most_tasks, most_pixels = 32, 800_000

    def default_chunk(self, episodes: Episode, adapts: bool) -> int:
        if episodes.support_x.is_cuda:
            return len(episodes)
        if not adapts:  # the images of one task fill a CPU, and shared weights leave nothing to batch
            return 1
        pixels = sum(x[0, :, 0].numel() for x in (episodes.support_x, episodes.query_x))
        return max(1, min(self.most_tasks, self.most_pixels // pixels))

    def each(self, function: TaskFunction, episodes: Episode) -> dict[str, Tensor]:
        if len(episodes) == 1:  # shared weights and plain convolutions, without the cost of a batching rule
            return {name: value[None] for name, value in function(episodes[0]).items()}
        return torch.func.vmap(lambda tensors: function(episodes.with_tensors(tensors)))(episodes.tensors())


class LoopEngine(Engine):
    """A Python loop over tasks with ``torch.autograd``: slower, plain, and the check of the other."""

    def default_chunk(self, episodes: Episode, adapts: bool) -> int:
        return 1

    def each(self, function: TaskFunction, episodes: Episode) -> dict[str, Tensor]:
        outputs = [function(episodes[task]) for task in range(len(episodes))]
        return {name: torch.stack([output[name] for output in outputs]) for name in outputs[0]}
