"""Classify by ridge regression from features to labels.

Bertinetto, Henriques, Torr, Vedaldi, "Meta-learning with differentiable closed-form solvers", ICLR 2019.

With X the features of the support set (N*K, D) and Y its labels, one-hot, both less their means over the support set,
the weights of a task minimise |X W - Y|^2 + lambda |W|^2:
    W = X^T (X X^T + lambda I)^-1 Y = (X^T X + lambda I)^-1 X^T Y    (eq. 4 and 6: the smaller system is solved)
and the logits of a query image with features x are scale * ((x - mean of X) W + mean of Y).

Differs from the paper:
- lambda and the scale of the logits are settings, where the paper learns both;
- the means give a bias that is not regularised, as in scikit-learn's ``Ridge``;
- features can be normalised to length 1.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fewshot.episode import Episode
from fewshot.errors import UserError
from fewshot.methods.embedding import EmbeddingMethod
from fewshot.methods.predictor import ExtraLoss, Predictor, module_state
from fewshot.networks import Backbone, Prediction


def ridge_regression(x: Tensor, y: Tensor, regularisation: float | Tensor) -> tuple[Tensor, Tensor]:
    """Return weights ``(D, N)`` and bias ``(N,)``.

    The system is solved in single precision or better, also in mixed precision.

    Args:
        x: features ``(M, D)``.
        y: targets ``(M, N)``.
        regularisation: lambda, above 0.
    """
    with torch.autocast(x.device.type, enabled=False):
        precision = torch.promote_types(x.dtype, torch.float32)
        x = x.to(precision)
        y = y.to(precision)
        x_mean = x.mean(0)
        y_mean = y.mean(0)
        x = x - x_mean
        y = y - y_mean
        rows, columns = x.shape
        identity = torch.eye(min(rows, columns), dtype=precision, device=x.device)
        if rows < columns:
            weight = x.T @ torch.linalg.solve(x @ x.T + regularisation * identity, y)
        else:
            weight = torch.linalg.solve(x.T @ x + regularisation * identity, x.T @ y)
        return weight, y_mean - x_mean @ weight


class Ridge(EmbeddingMethod):
    """Fit ridge regression to the features of a task.

    A backbone with parameters is trained through the closed form, by the cross-entropy of query images.

    Args:
        backbone: images to features.
        regularisation: lambda.
        scale: factor of the regression's outputs in the softmax.
        normalise: give features length 1.
        base: see ``Method``.
    """

    stores_statistics = True

    def __init__(
        self,
        backbone: Backbone,
        regularisation: float = 1.0,
        scale: float = 10.0,
        normalise: bool = True,
        **base: Any,
    ) -> None:
        super().__init__(backbone, **base)
        if min(regularisation, scale) <= 0:
            raise UserError(f"method.regularisation={regularisation}, method.scale={scale}: must be above 0")
        self.regularisation = regularisation
        self.scale = scale
        self.normalise = normalise

    def fit_task(self, episode: Episode, extra: ExtraLoss | None = None) -> Predictor:
        support_x = episode.support_x
        labels = F.one_hot(episode.support_y, episode.ways)

        def predict(state: dict[str, Tensor], x: Tensor) -> Prediction:
            features = self.forward_queries(self.backbone, module_state(state, "backbone"), support_x, x, joint=True)
            scaled = F.normalize(features) if self.normalise else features
            support, queries = scaled.split([len(support_x), len(x)])
            weight, bias = ridge_regression(support, labels, self.regularisation)
            return Prediction(self.scale * (queries.to(weight) @ weight + bias), features[len(support_x) :])

        return Predictor(predict, dict(self.named_parameters()))
