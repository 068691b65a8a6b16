"""Put a head on a backbone."""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor, nn

from fewshot.networks.backbone import Backbone


class Prediction(NamedTuple):
    """Hold logits ``(M, N)`` and features ``(M, D)``."""

    logits: Tensor
    features: Tensor


HeadInit = Callable[[Tensor], object]


def near_zero(weight: Tensor) -> None:
    """Fill a weight with values near zero.

    The standard deviation is 0.01, as in the fully connected layers of the MAML code. Labels are exchangeable, so
    before adaptation no class should be likelier than another.
    """
    nn.init.normal_(weight, std=0.01)


class Classifier(nn.Module):
    """Map images to features, then to logits.

    ``backbone`` gives the features, ``head`` the logits.
    """

    def __init__(self, backbone: Backbone, head: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head

    def forward(self, x: Tensor) -> Prediction:
        """Return logits and features of images."""
        features = self.backbone(x)
        return Prediction(self.head(features), features)


class LinearClassifier(Classifier):
    """Classify by a linear head of N outputs.

    ``head_init`` fills the weight of the head; the bias starts at 0.
    """

    def __init__(self, backbone: Backbone, ways: int, head_init: HeadInit = near_zero) -> None:
        head = nn.Linear(backbone.features, ways)
        head_init(head.weight)
        nn.init.zeros_(head.bias)
        super().__init__(backbone, head)
