"""Classify by the nearest neighbour in raw pixels.

The accuracy is the floor for learned methods.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fewshot.episode import Episode
from fewshot.methods.base import Method
from fewshot.methods.predictor import ExtraLoss, Predictor
from fewshot.methods.protonet import squared_distances
from fewshot.networks import Prediction


class NearestNeighbour(Method):
    """Give a query its nearest support image's class.

    Nothing is learned. The logit of a class is minus the squared Euclidean distance to its nearest support image.
    """

    knownness_score = "logit"

    def __init__(self, **base: Any) -> None:
        super().__init__(**base)
        self.pixels = nn.Flatten()

    @property
    def network(self) -> nn.Module:
        return self.pixels

    def fit_task(self, episode: Episode, extra: ExtraLoss | None = None) -> Predictor:
        def predict(state: dict[str, Tensor], x: Tensor) -> Prediction:
            pixels = self.pixels(x)
            distances = squared_distances(pixels, self.pixels(state["support_x"]))
            elsewhere = F.one_hot(state["support_y"], episode.ways).T[:, None] == 0  # (N, 1, N*K)
            return Prediction(-torch.where(elsewhere, torch.inf, distances).amin(-1).T, pixels)

        return Predictor(predict, {"support_x": episode.support_x, "support_y": episode.support_y})
