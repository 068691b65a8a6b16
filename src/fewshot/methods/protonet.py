"""Prototypical networks.

Snell, Swersky, Zemel, "Prototypical networks for few-shot learning", NeurIPS 2017.

The prototype of a class is the mean embedding of its support images (eq. 1); a query's class
probabilities are a softmax over negative distances to the prototypes (eq. 2).

Differs from the paper:
- a cosine metric, with a learned scale, is offered beside the squared Euclidean distance.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fewshot.episode import Episode
from fewshot.errors import UserError
from fewshot.methods.base import Method
from fewshot.methods.predictor import ExtraLoss, Predictor
from fewshot.networks import Backbone, Prediction

DISTANCES = ("euclidean", "cosine")


def prototypes(features: Tensor, labels: Tensor, ways: int) -> Tensor:
    """Class means ``(N, D)`` of support features ``(N*K, D)``; a product, as ``vmap`` takes no masks."""
    membership = F.one_hot(labels, ways).to(features)
    return (membership.T @ features) / membership.sum(0)[:, None]


def squared_distances(x: Tensor, centres: Tensor) -> Tensor:
    """``(M, N)`` squared Euclidean distances of ``(M, D)`` and ``(N, D)``."""
    return x.square().sum(1, keepdim=True) - 2 * x @ centres.T + centres.square().sum(1)


class ProtoNet(Method):
    """A network whose embedding has classes around their means.

    Args:
        backbone: images to embeddings.
        distance: ``euclidean`` (squared) or ``cosine``.
        base: see ``Method``. Under ``bn=transductive``, as in training, the statistics are those of the
            support and query images together, as in the authors' code.
    """

    stores_statistics = True

    def __init__(self, backbone: Backbone, distance: str = "euclidean", **base) -> None:
        super().__init__(**base)
        if distance not in DISTANCES:
            raise UserError(f"method.distance={distance}: choose one of {', '.join(DISTANCES)}")
        self.backbone = backbone
        self.log_scale = nn.Parameter(torch.tensor(10.0).log()) if distance == "cosine" else None

    @property
    def network(self) -> nn.Module:
        return self.backbone

    @property
    def features(self) -> int:
        return self.backbone.features

    def fit_task(self, episode: Episode, extra: ExtraLoss | None = None) -> Predictor:
        support_x, support_y = episode.support_x, episode.support_y

        def predict(state: dict[str, Tensor], x: Tensor) -> Prediction:
            params = {name: value for name, value in state.items() if name != "log_scale"}
            features = self.run(self.backbone, params, support_x, x, joint=True)
            support, queries = features[: len(support_x)], features[len(support_x) :]
            centres = prototypes(support, support_y, episode.ways)
            if "log_scale" in state:
                logits = state["log_scale"].exp() * F.normalize(queries) @ F.normalize(centres).T
            else:
                logits = -squared_distances(queries, centres)
            return Prediction(logits, queries)

        state: dict[str, Tensor] = dict(self.backbone.named_parameters())
        if self.log_scale is not None:
            state["log_scale"] = self.log_scale
        return Predictor(predict, state)
