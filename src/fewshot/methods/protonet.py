"""Train prototypical networks.

Snell, Swersky, Zemel, "Prototypical networks for few-shot learning", NeurIPS 2017.

The prototype of a class is the mean embedding of its support images (eq. 1); a query's class
probabilities are a softmax over negative distances to the prototypes (eq. 2).

Recipes: ``soft_kmeans`` and ``masked_soft_kmeans`` (``refinement``, Ren et al. 2018) move the prototypes by the
unlabelled images of a task.

Differs from the paper:
- a cosine metric, with a learned scale, is offered beside the squared Euclidean distance, and for that
  the metric scaling of Oreshkin, Rodriguez, Lacoste, "TADAM", NeurIPS 2018 (section 3.1), by a fixed number.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from fewshot.episode import Episode
from fewshot.errors import UserError
from fewshot.methods.embedding import EmbeddingMethod
from fewshot.methods.predictor import ExtraLoss, Predictor, module_state
from fewshot.networks import Backbone, Prediction

DISTANCES = ("euclidean", "cosine")


def prototypes(features: Tensor, labels: Tensor, ways: int) -> Tensor:
    """Return the mean features of each class.

    Support features ``(N*K, D)`` give means ``(N, D)`` (eq. 1).
    """
    membership = F.one_hot(labels, ways).to(features)  # a product, as vmap takes no masks
    return (membership.T @ features) / membership.sum(0)[:, None]


def squared_distances(x: Tensor, centres: Tensor) -> Tensor:
    """Return squared Euclidean distances.

    Features ``(M, D)`` and centres ``(N, D)`` give ``(M, N)``.
    """
    return x.square().sum(1, keepdim=True) - 2 * x @ centres.T + centres.square().sum(1)


class ProtoNet(EmbeddingMethod):
    """Train an embedding that clusters images by class.

    The images of a class lie around the mean of the class.

    Args:
        backbone: maps images to embeddings.
        distance: ``euclidean`` (squared) or ``cosine``.
        scale: factor of the distances in the softmax: fixed for squared distances, the start of the learned scale
            for the cosine; None for 1 and for 10.
        refinement: see ``fewshot.methods.soft_kmeans``; None for prototypes of the support images alone.
        base: see ``Method``. Under ``bn=transductive``, as in training, the support and query images share
            statistics, as in the authors' code. With a refinement the unlabelled images count as a part of the
            support set for ``bn`` too.
    """

    stores_statistics = True
    knownness_score = "logit"

    def __init__(
        self,
        backbone: Backbone,
        distance: str = "euclidean",
        scale: float | None = None,
        refinement: nn.Module | None = None,
        **base: Any,
    ) -> None:
        super().__init__(backbone, **base)
        if distance not in DISTANCES:
            raise UserError(f"method.distance={distance}: choose one of {', '.join(DISTANCES)}")
        if refinement is not None and distance != "euclidean":
            raise UserError(f"method.distance={distance}: method.refinement needs method.distance=euclidean")
        if scale is not None and scale <= 0:
            raise UserError(f"method.scale={scale}: must be above 0, or null")
        self.refinement = refinement
        self.scale = scale or 1.0
        self.log_scale = nn.Parameter(torch.tensor(scale or 10.0).log()) if distance == "cosine" else None

    def fit_task(self, episode: Episode, extra: ExtraLoss | None = None) -> Predictor:
        given = episode.support_x
        support_y = episode.support_y
        shots = len(given)  # of all classes
        if self.refinement is not None:
            if episode.unlabeled_x is None:
                raise UserError("method.refinement needs task.unlabeled of at least 1, and task.train_unlabeled too")
            given = torch.cat([given, episode.unlabeled_x])

        def predict(state: dict[str, Tensor], x: Tensor) -> Prediction:
            features = self.forward_queries(self.backbone, module_state(state, "backbone"), given, x, joint=True)
            support, unlabeled, queries = features.split([shots, len(given) - shots, len(x)])
            centres = prototypes(support, support_y, episode.ways)
            if self.refinement is not None:
                counts = F.one_hot(support_y, episode.ways).sum(0).to(centres)
                params = module_state(state, "refinement")
                centres = functional_call(self.refinement, params, (centres, counts, unlabeled))
            return Prediction(self.similarities(state, queries, centres), queries)

        return Predictor(predict, dict(self.named_parameters()))

    def similarities(self, state: dict[str, Tensor], x: Tensor, centres: Tensor) -> Tensor:
        """Return the logits of features for centres.

        Features are ``(M, D)``, centres ``(N, D)``, logits ``(M, N)`` (eq. 2).
        """
        if "log_scale" in state:
            return state["log_scale"].exp() * F.normalize(x) @ F.normalize(centres).T
        return -self.scale * squared_distances(x, centres)
