"""Classify by the nearest neighbour, in raw pixels or in features.

In pixels the accuracy is the floor for learned methods; in the features of a pretrained network it is a rival.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fewshot.episode import Episode
from fewshot.methods.base import Method
from fewshot.methods.predictor import ExtraLoss, Predictor, module_state
from fewshot.methods.protonet import squared_distances
from fewshot.networks import Backbone, Prediction


class NearestNeighbour(Method):
    """Give a query its nearest support image's class.

    Nothing is learned. The logit of a class is minus the squared Euclidean distance to its nearest support image.

    Args:
        backbone: maps images to features, and is not trained; None for raw pixels.
        base: see ``Method``.
    """

    knownness_score = "logit"

    def __init__(self, backbone: Backbone | None = None, **base: Any) -> None:
        super().__init__(**base)
        self.backbone = (backbone or nn.Flatten()).requires_grad_(False)

    @property
    def network(self) -> nn.Module:
        return self.backbone

    def fit_task(self, episode: Episode, extra: ExtraLoss | None = None) -> Predictor:
        def predict(state: dict[str, Tensor], x: Tensor) -> Prediction:
            network = module_state(state, "backbone")
            features = self.forward_queries(self.backbone, network, state["support_x"], x, joint=True)
            support, queries = features.split([len(state["support_x"]), len(x)])
            distances = squared_distances(queries, support)
            elsewhere = F.one_hot(state["support_y"], episode.ways).T[:, None] == 0  # (N, 1, N*K)
            return Prediction(-torch.where(elsewhere, torch.inf, distances).amin(-1).T, queries)

        task = {"support_x": episode.support_x, "support_y": episode.support_y}
        return Predictor(predict, task | dict(self.named_parameters()))
