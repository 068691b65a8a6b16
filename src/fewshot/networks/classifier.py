"""A backbone with a linear head."""

from typing import NamedTuple

from torch import Tensor, nn

from fewshot.networks.backbone import Backbone


class Prediction(NamedTuple):
    """Logits ``(M, N)`` and the features ``(M, D)`` they were made from."""

    logits: Tensor
    features: Tensor


class LinearClassifier(nn.Module):
    """``backbone`` and a linear ``head`` of N outputs.

    The head starts near zero (standard deviation 0.01, as the MAML code's fully connected layers):
    labels are exchangeable, so before adaptation no class should be likelier than another.
    """

    def __init__(self, backbone: Backbone, ways: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = nn.Linear(backbone.features, ways)
        nn.init.normal_(self.head.weight, std=0.01)
        nn.init.zeros_(self.head.bias)

    def forward(self, x: Tensor) -> Prediction:
        features = self.backbone(x)
        return Prediction(self.head(features), features)
