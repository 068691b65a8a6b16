"""A backbone with a head."""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor, nn

from fewshot.networks.backbone import Backbone


class Prediction(NamedTuple):
    """Logits ``(M, N)`` and the features ``(M, D)`` they were made from."""

    logits: Tensor
    features: Tensor


HeadInit = Callable[[Tensor], object]


def near_zero(weight: Tensor) -> None:
    """Standard deviation 0.01, as the MAML code's fully connected layers.

    Labels are exchangeable, so before adaptation no class should be likelier than another.
    """
    nn.init.normal_(weight, std=0.01)


class Classifier(nn.Module):
    """``backbone`` and a ``head`` from features to logits."""

    def __init__(self, backbone: Backbone, head: nn.Module) -> None:
        super().__init__()
        self.backbone, self.head = backbone, head

    def forward(self, x: Tensor) -> Prediction:
        features = self.backbone(x)
        return Prediction(self.head(features), features)


class LinearClassifier(Classifier):
    """A linear head of N outputs, whose weight ``head_init`` fills; its bias starts at 0."""

    def __init__(self, backbone: Backbone, ways: int, head_init: HeadInit = near_zero) -> None:
        head = nn.Linear(backbone.features, ways)
        head_init(head.weight)
        nn.init.zeros_(head.bias)
        super().__init__(backbone, head)
