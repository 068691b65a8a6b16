"""A backbone with a linear head."""

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


class LinearClassifier(nn.Module):
    """``backbone`` and a linear ``head`` of N outputs, whose weight ``head_init`` fills; its bias starts at 0."""

    def __init__(self, backbone: Backbone, ways: int, head_init: HeadInit = near_zero) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = nn.Linear(backbone.features, ways)
        head_init(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, x: Tensor) -> Prediction:
        features = self.backbone(x)
        return Prediction(self.head(features), features)
