"""Predict after any number of inner steps."""

from collections.abc import Sequence

import torch
from torch import Tensor

from fewshot.engines import Engine
from fewshot.engines.engine import TaskFunction
from fewshot.engines.gradient import InnerLoss, Params, Rates
from fewshot.episode import Episode
from fewshot.methods.base import Method
from fewshot.methods.metagan import MetaGAN


def adapting_method(method: Method) -> Method | None:
    """Return the method that adapts at test.

    This is ``method``, the host of a MetaGAN, or None.
    """
    host = method.host if isinstance(method, MetaGAN) else method
    return host if host.test_steps else None


def logits_by_step(method: Method, episodes: Episode, steps: Sequence[int]) -> Tensor:
    """Return logits after each number of steps.

    The S numbers of inner steps increase. Output: ``(B, S, N*Q, N)``. A task is fit once, to the last number: every fit
    goes on from the fit before.
    """
    host = adapting_method(method)
    assert host is not None
    engine = host.engine
    test_steps = host.test_steps

    def every_fit(episode: Episode) -> dict[str, Tensor]:
        host.engine = _ContinuedDescent(engine)
        logits = []
        for host.test_steps in steps:
            logits.append(method.predictor(episode)(episode.query_x).logits)
        return {"logits": torch.stack(logits)}

    try:
        chunks = list(method.chunks(episodes))  # of as many tasks as are scored together
        return torch.cat([method.map_tasks(every_fit, chunk)["logits"] for chunk in chunks])
    finally:
        host.engine = engine
        host.test_steps = test_steps


class _ContinuedDescent(Engine):
    """Continue each descent from the last descent.

    All descents are of one task. The descents differ in the number of steps only, which does not fall.
    """

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine.chunk, engine.checkpoint)
        self.engine = engine
        self.taken = 0
        self.reached: Params | None = None

    def descend(self, loss: InnerLoss, params: Params, rates: Rates, steps: int, second_order: bool) -> Params:
        taken = self.taken
        start = params if self.reached is None else self.reached
        reached = self.engine.descend(
            lambda fast, step: loss(fast, taken + step), start, rates, steps - taken, second_order
        )
        self.taken = steps
        self.reached = reached
        return reached

    def default_chunk(self, episodes: Episode, adapts: bool) -> int:
        return self.engine.default_chunk(episodes, adapts)

    def map_tasks(self, function: TaskFunction, episodes: Episode) -> dict[str, Tensor]:
        return self.engine.map_tasks(function, episodes)
