"""Fitting a task returns a predictor; nothing of the task stays on the method."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from fewshot.networks import Prediction


@dataclass(frozen=True)
class Predictor:
    """What fitting a task returns: images ``(M, C, H, W)`` to logits ``(M, N)`` and features.

    ``state`` holds every tensor that the prediction depends on, so that ``detach`` cuts them all.
    """

    function: Callable[[dict[str, Tensor], Tensor], Prediction]
    state: dict[str, Tensor]

    def __call__(self, x: Tensor) -> Prediction:
        return self.function(self.state, x)

    def detach(self) -> "Predictor":
        """The same predictor as a constant: gradients pass to the images only."""
        return Predictor(self.function, {name: value.detach() for name, value in self.state.items()})


def part(state: dict[str, Tensor], module: str) -> dict[str, Tensor]:
    """The tensors of one module in a predictor's state, by their names in the module."""
    prefix = f"{module}."
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


# A further term of the support loss, for methods with an inner loop: (prediction of the support set,
# predictor at the current weights, step) -> scalar.
ExtraLoss = Callable[[Prediction, Callable[[Tensor], Prediction], int], Tensor]
