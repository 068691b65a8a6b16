"""What a method with an inner loop predicts after any number of inner steps."""

from collections.abc import Sequence

import torch
from torch import Tensor

from fewshot.engines import Engine
from fewshot.engines.engine import TaskFunction
from fewshot.engines.gradient import InnerLoss, Params, Rates
from fewshot.episode import Episode
from fewshot.methods.base import Method
from fewshot.methods.metagan import MetaGAN


def adapting(method: Method) -> Method | None:
    """The method whose inner loop fits a task in evaluation, ``method`` or its classifier; None for none."""
    host = method.host if isinstance(method, MetaGAN) else method
    return host if host.test_steps else None


def trajectory(method: Method, episodes: Episode, steps: Sequence[int]) -> Tensor:
    """``(B, S, N*Q, N)`` logits of the query images after each of S increasing numbers of inner steps.

    A task is fit once, to the last number: every fit goes on from the one before it.
    """
    host = adapting(method)
    assert host is not None
    engine, test_steps = host.engine, host.test_steps

    def every_fit(episode: Episode) -> dict[str, Tensor]:
        host.engine = _Continued(engine)
        found = []
        for host.test_steps in steps:
            found.append(method.predictor(episode)(episode.query_x).logits)
        return {"logits": torch.stack(found)}

    try:
        chunks = list(method.chunks(episodes))  # of as many tasks as are scored together
        return torch.cat([method.each(every_fit, chunk)["logits"] for chunk in chunks])
    finally:
        host.engine, host.test_steps = engine, test_steps


class _Continued(Engine):
    """Another engine's descents in one task, each of which begins where the last one ended.

    They differ in the number of steps only, which does not fall.
    """

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine.chunk, engine.checkpoint)
        self.engine, self.taken = engine, 0
        self.reached: Params | None = None

    def descend(self, loss: InnerLoss, params: Params, rates: Rates, steps: int, second_order: bool) -> Params:
        taken, start = self.taken, params if self.reached is None else self.reached
        reached = self.engine.descend(
            lambda fast, step: loss(fast, taken + step), start, rates, steps - taken, second_order
        )
        self.taken, self.reached = steps, reached
        return reached

    def default_chunk(self, episodes: Episode, adapts: bool) -> int:
        return self.engine.default_chunk(episodes, adapts)

    def each(self, function: TaskFunction, episodes: Episode) -> dict[str, Tensor]:
        return self.engine.each(function, episodes)
