"""Train relation networks.

Sung, Yang, Zhang, Xiang, Torr, Hospedales, "Learning to compare: relation network for few-shot learning", CVPR 2018.

A class is the sum of the feature maps of its support images (section 3.2); a learned head scores how much the
map of a query belongs to the class (eq. 1): r_ij = g(concatenate(class_i, f(x_j))). Scores are regressed, through a
sigmoid, to 1 for the query's class and 0 for the others, by squared error (eq. 2).

The logits are the scores before the sigmoid, which does not change their order. Support and query images are embedded
in separate passes, each normalised by its own batch, as in the authors' code.

Differs from the paper:
- the squared error is the mean over queries and classes, as in the authors' code; eq. 2 writes the sum;
- ``loss=cross_entropy`` is offered too: a softmax over the scores of the classes;
- convolutions are padded, so that maps of 28 x 28 images are 7 x 7; the authors' first two are not: 5 x 5;
- 15 queries a class for any task (the paper: 19, 15, 10 or 5), a cosine schedule (there: halved every 100,000
  episodes), and the gradient of the whole network is clipped (there: of embedding and head each).
"""

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from fewshot.episode import Episode
from fewshot.errors import UserError
from fewshot.methods.base import Method
from fewshot.methods.predictor import ExtraLoss, Predictor
from fewshot.networks import Backbone, Prediction, RelationNetwork

LOSSES = ("mse", "cross_entropy")


class RelationNet(Method):
    """Train a network that compares queries with classes.

    Args:
        backbone: maps images to flattened feature maps.
        norm: norm of the relation head; see ``fewshot.networks.norm_layers``.
        loss: loss of query images, ``mse`` or ``cross_entropy``.
        base: see ``Method``. Under ``bn=support`` the pairs of support images with the classes give the statistics
            in the head.
    """

    knownness_score = "logit"

    def __init__(self, backbone: Backbone, norm: str = "batch", loss: str = "mse", **base: Any) -> None:
        super().__init__(**base)
        if loss not in LOSSES:
            raise UserError(f"method.loss={loss}: choose one of {', '.join(LOSSES)}")
        self.relation = RelationNetwork(backbone, norm)
        self.loss = loss

    @property
    def network(self) -> nn.Module:
        return self.relation

    @property
    def features(self) -> int:
        return self.relation.backbone.features

    def query_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of the query images.

        The loss is the squared error of sigmoid scores (eq. 2), or the cross-entropy.
        """
        if self.loss == "cross_entropy":
            return super().query_loss(logits, labels)
        return F.mse_loss(logits.sigmoid(), F.one_hot(labels, logits.shape[1]).to(logits))

    def fit_task(self, episode: Episode, extra: ExtraLoss | None = None) -> Predictor:
        support_x = episode.support_x
        backbone = self.relation.backbone
        # The support set in the place of the queries: a pass of its own, whatever ``bn`` is.
        params: dict[str, Tensor] = dict(backbone.named_parameters())
        support = self.forward_queries(backbone, params, support_x, support_x)[-len(support_x) :]
        classes = F.one_hot(episode.support_y, episode.ways).T.to(support) @ support

        def predict(state: dict[str, Tensor], x: Tensor) -> Prediction:
            output = self.forward_queries(self.relation, state, support_x, x)
            return Prediction(*(rows[-len(x) :] for rows in output))

        return Predictor(predict, dict(self.relation.named_parameters()) | {"classes": classes})
