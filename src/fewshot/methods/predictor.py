"""Hold the result of fitting a task.

The result is separate from the method.
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from fewshot.networks import Prediction


@dataclass(frozen=True)
class Predictor:
    """Predict logits and features of images.

    Images ``(M, C, H, W)`` have logits ``(M, N)``. ``state`` holds every tensor that the prediction depends on, so that
    ``detach`` makes all of them constants.
    """

    function: Callable[[dict[str, Tensor], Tensor], Prediction]
    state: dict[str, Tensor]

    def __call__(self, x: Tensor) -> Prediction:
        return self.function(self.state, x)

    def detach(self) -> "Predictor":
        """Return the predictor with a constant state.

        Gradients pass to the images only.
        """
        return Predictor(self.function, {name: value.detach() for name, value in self.state.items()})


def module_state(state: dict[str, Tensor], module: str) -> dict[str, Tensor]:
    """Return one module's tensors from a predictor's state."""
    prefix = f"{module}."
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


# A further term of the support loss, for methods with an inner loop: (prediction of the support set,
# predictor at the current weights, step) -> scalar.
ExtraLoss = Callable[[Prediction, Callable[[Tensor], Prediction], int], Tensor]
