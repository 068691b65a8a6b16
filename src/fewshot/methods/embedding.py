"""Hold the backbone of a method that compares embeddings."""

from typing import Any

from torch import nn

from fewshot.methods.base import Method
from fewshot.networks import Backbone


class EmbeddingMethod(Method):
    """Embed images by a backbone, and learn no other network.

    Args:
        backbone: maps images to embeddings.
        base: see ``Method``.
    """

    def __init__(self, backbone: Backbone, **base: Any) -> None:
        super().__init__(**base)
        self.backbone = backbone

    @property
    def network(self) -> nn.Module:
        return self.backbone

    @property
    def features(self) -> int:
        return self.backbone.features
